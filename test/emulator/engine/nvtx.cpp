// nvtx.cpp - steps of training, which programs mark with NVTX ranges
//
// NVTX consists of headers. Its first call loads the library that NVTX_INJECTION64_PATH names and calls its function
// InitializeInjectionNvtx2, which may put functions into NVTX's tables. scripts/emulate --profile puts the emulator's
// path there. A range whose name has the word "step" in it is a step, such as "Train step 3". Ranges inside of a step
// belong to it. A launch belongs to the step in which it runs, so --streams eager is needed.
#include <cctype>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "counters.h"

namespace emu {
namespace {

bool names_step(const std::string& name) {
    auto letter = [&](size_t k) { return k < name.size() && std::isalpha(uint8_t(name[k])); };
    std::string low;
    for (char c : name) low += char(std::tolower(uint8_t(c)));
    for (size_t at = low.find("step"); at != std::string::npos; at = low.find("step", at + 1))
        if (!letter(at - 1) && !letter(at + 4)) return true;
    return false;
}

// The open ranges of a thread, and the one of them that is the step.
thread_local auto& open_ranges = *new std::vector<std::string>;
thread_local size_t step_depth = 0;

int push(const char* name) {
    open_ranges.push_back(name ? name : "");
    if (!step_depth && names_step(open_ranges.back())) {
        count_step("");
        step_depth = open_ranges.size();
    }
    return int(open_ranges.size()) - 1;
}
int pop() {
    if (open_ranges.empty()) return -1;
    if (step_depth == open_ranges.size()) {
        count_step(open_ranges.back());
        step_depth = 0;
    }
    open_ranges.pop_back();
    return int(open_ranges.size());
}

struct Attributes {  // nvtxEventAttributes_t, version 2 and later
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    uint64_t payload;
    int32_t message_type;  // 1 for ASCII
    const char* message;
};
int push_attributes(const Attributes* a) { return push(a && a->message_type == 1 ? a->message : ""); }
int push_in_domain(void*, const Attributes* a) { return push_attributes(a); }
int pop_in_domain(void*) { return pop(); }

using Function      = void (*)();
using FunctionTable = Function**;  // pointers to the function pointers, by slot
struct Callbacks {
    size_t size;
    int (*table)(int module, FunctionTable* table, unsigned* slots);
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
    constexpr uint32_t kCallbacks = 1;
    constexpr int kCore = 1, kCore2 = 5;
    const auto* callbacks = static_cast<const Callbacks*>(export_table(kCallbacks));
    if (!callbacks) return 0;
    auto put = [&](int module, unsigned slot, auto* function) {
        FunctionTable table = nullptr;
        unsigned slots      = 0;
        if (callbacks->table(module, &table, &slots) && slot < slots)
            *table[slot] = reinterpret_cast<Function>(function);
    };
    put(kCore, 8, push_attributes);  // nvtxRangePushEx
    put(kCore, 9, push);             // nvtxRangePushA
    put(kCore, 11, pop);             // nvtxRangePop
    put(kCore2, 4, push_in_domain);  // nvtxDomainRangePushEx
    put(kCore2, 5, pop_in_domain);   // nvtxDomainRangePop
    return 1;
}

}  // namespace emu
