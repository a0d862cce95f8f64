// lanes.h - handlers made from a scalar function, and the decoding they share
#pragma once
#include "forms.h"

namespace emu {

template <class Op, class D, class A> const Instr* unary(Warp& w, const Instr* i) {
    const A* a = w.reg<A>(i->a);
    for_lanes(w, w.reg<D>(i->d), [=](int l) { return D(Op::f(a[l])); });
    return i + 1;
}

template <class Op, class D, class A, class B> const Instr* binary(Warp& w, const Instr* i) {
    const A* a = w.reg<A>(i->a);
    const B* b = w.reg<B>(i->b);
    for_lanes(w, w.reg<D>(i->d), [=](int l) { return D(Op::f(a[l], b[l])); });
    return i + 1;
}

template <class Op, class D, class A, class B, class C> const Instr* ternary(Warp& w, const Instr* i) {
    const A* a = w.reg<A>(i->a);
    const B* b = w.reg<B>(i->b);
    const C* c = w.reg<C>(i->c);
    for_lanes(w, w.reg<D>(i->d), [=](int l) { return D(Op::f(a[l], b[l], c[l])); });
    return i + 1;
}

// Writes a predicate for the active lanes only.
inline void put_pred(Warp& w, Ref d, uint32_t value) {
    uint32_t& p = w.pred(d);
    p           = (p & ~w.mask) | (value & w.mask);
}

// Emits d = op(operands …), where operand k has the type types[k].
inline Instr& emit_op(Builder& b, const ptx::Instruction& i, Handler h, Type d, std::initializer_list<Type> types) {
    if (i.ops.size() != types.size() + 1)
        throw Undecodable(std::to_string(types.size() + 1) + " operands expected, found " +
                          std::to_string(i.ops.size()));
    Ref in[3];
    size_t k = 0;
    for (Type t : types) in[k] = b.read(i.ops[k + 1], t), k++;
    const Ref to = b.write(i.ops[0], d);
    Instr& x     = b.emit(h);
    x.d = to, x.a = in[0], x.b = in[1], x.c = in[2];
    return x;
}

inline bool has(const ptx::Instruction& i, std::string_view mod) {
    for (size_t k = 1; k < i.mods.size(); k++)
        if (i.mods[k] == mod) return true;
    return false;
}

// The registers of a vector operand, or the operand itself.
inline std::vector<Operand> parts_of(const Operand& o) {
    return o.kind == Operand::Vector ? o.parts : std::vector<Operand>{o};
}

inline Type bits_type(int bytes) {
    return bytes == 2 ? Type::b16 : bytes == 4 ? Type::b32 : bytes == 8 ? Type::b64 : Type::b128;
}
struct Bits128 {
    uint64_t lo, hi;
};

// The n-th type among the modifiers: cvt.rn.f32.s32 has two.
inline Type type_at(const ptx::Instruction& i, int n) {
    for (size_t k = 1; k < i.mods.size(); k++) {
        const Type t = ptx::type_of(i.mods[k]);
        if (t != Type::none && n-- == 0) return t;
    }
    return Type::none;
}
inline Type type_of(const ptx::Instruction& i) { return type_at(i, 0); }

// Calls use.operator()<T>() with the C++ type of a PTX type.
template <class F> Handler with_int(Type t, F use) {
    switch (t) {
        case Type::u16:
        case Type::b16: return use.template operator()<uint16_t>();
        case Type::s16: return use.template operator()<int16_t>();
        case Type::u32:
        case Type::b32: return use.template operator()<uint32_t>();
        case Type::s32: return use.template operator()<int32_t>();
        case Type::u64:
        case Type::b64: return use.template operator()<uint64_t>();
        case Type::s64: return use.template operator()<int64_t>();
        default: throw Undecodable("no integer type");
    }
}

template <class F> Handler with_bits(Type t, F use) {
    switch (reg_bytes(t)) {
        case 2: return use.template operator()<uint16_t>();
        case 4: return use.template operator()<uint32_t>();
        case 8: return use.template operator()<uint64_t>();
        default: throw Undecodable("no type of 16, 32 or 64 bits");
    }
}

}  // namespace emu
