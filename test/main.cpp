// main.cpp - runs the tests: build/test_gpt [--cpu v2|v3|v4] [NAME or [tag]]; `make test ARGS='layernorm*'`
#include "kernels/host.h"

#undef CHECK
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

int main(int argc, char** argv) try {
    if (argc > 2 && std::string(argv[1]) == "--cpu") {
        const std::string level = argv[2];
        if (level != "v2" && level != "v3" && level != "v4") throw InputError("--cpu: expected v2, v3 or v4");
        host::use_cpu_level(level[1] - '0', argv);
        argv[2] = argv[0], argv += 2, argc -= 2;
    }
    return Catch::Session().run(argc, argv);
} catch (const std::exception& e) { return complain(e); }
