// catch.h - Catch2, version 2 or 3. test/catch.h of gpt.cu is not used, because these tests need nothing of gpt.cu.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
