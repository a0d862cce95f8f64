// auto.h - a value that the program decides unless the user does
#pragma once
#include <optional>
#include <utility>

#include "kernels/check.h"

// The value of an option that the program decides unless the user does. Until one of them decides, it is `auto`.
template <class T>
class Auto {
  public:
    Auto() = default;
    Auto(T value) : value_(std::move(value)) {}
    bool is_auto() const { return !value_; }
    // Returns the value. When it is still auto, it becomes `otherwise` first.
    const T& decide(T otherwise) {
        if (!value_) value_ = std::move(otherwise);
        return *value_;
    }
    T value_or(T otherwise) const { return value_ ? *value_ : std::move(otherwise); }
    operator const T&() const {
        CHECK_CALL(value_, "an option was read before anything decided what its `auto` means");
        return *value_;
    }

  private:
    std::optional<T> value_;
};
template <class T>
struct fmt::formatter<Auto<T>> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    template <class Context>
    auto format(const Auto<T>& value, Context& context) const {
        return fmt::format_to(context.out(), "{}", static_cast<const T&>(value));
    }
};
