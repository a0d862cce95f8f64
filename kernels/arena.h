// arena.h - memory for a table of tensors, in one block
#pragma once
#include <string>

#include "device.h"

// Call plan() for every tensor of a table, which adds up their sizes. Then call allocate(), and take() for every tensor
// in the same order.
class Arena {
  public:
    explicit Arena(std::string group = "") : group_(std::move(group)) {}  // group: its name in messages
    Arena(Arena&& o) noexcept { *this = std::move(o); }
    Arena& operator=(Arena&& o) noexcept;
    ~Arena();

    void plan(const Shape& shape, DType dtype) { planned_ += padded(shape, dtype); }
    void allocate(const Device& device, Memory memory = Memory::device);  // zero-filled
    Tensor take(const Shape& shape, DType dtype);
    void rewind() { used_ = 0; }  // take() starts over, and gives the same memory other shapes
    int64_t bytes() const { return planned_; }
    // Returns all elements taken so far as one flat tensor. The padding between rows is part of it and stays zero.
    Tensor flat(DType dtype) const;

  private:
    static int64_t padded(const Shape& shape, DType dtype) { return round_up(shape.numel() * size_of(dtype), 64); }
    std::string group_;
    const Device* device_ = nullptr;
    char* base_           = nullptr;
    int64_t planned_ = 0, used_ = 0;
};
