// arena.cu - see arena.h
#include "arena.h"

#include <algorithm>

Arena& Arena::operator=(Arena&& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(device_, o.device_);
    std::swap(base_, o.base_);
    std::swap(planned_, o.planned_);
    std::swap(used_, o.used_);
    return *this;
}

Arena::~Arena() {
    if (device_) device_->release(base_);
}

void Arena::allocate(const Device& device, Memory memory) {
    CHECK_CALL(!base_, "arena '{}' is allocated already", group_);
    try {
        base_   = static_cast<char*>(device.allocate(std::max<int64_t>(planned_, 64), memory));
        device_ = &device;
        if (device.where() == Machine::cuda)  // the CPU's fresh pages are zero already
            zero(Tensor{base_, DType::I32, {std::max<int64_t>(planned_, 64) / 4}}, device.stream());
    } catch (const RunError& e) { throw RunError(group_ + ": " + e.what()); }
}

Tensor Arena::take(const Shape& shape, DType dtype) {
    const int64_t bytes = padded(shape, dtype);
    CHECK_CALL(base_ && used_ + bytes <= planned_, "arena '{}': {} {} was not planned", group_, shape.str(),
               name_of(dtype));
    Tensor t{base_ + used_, dtype, shape};
    used_ += bytes;
    return t;
}

Tensor Arena::flat(DType dtype) const { return Tensor{base_, dtype, {used_ / size_of(dtype)}}; }
