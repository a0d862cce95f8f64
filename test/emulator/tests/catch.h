// catch.h - Catch2 of either generation, without the product's own CHECK: these tests know nothing of the product
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
