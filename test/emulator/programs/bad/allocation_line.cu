// Memory is freed twice. The host code is not optimised, and the finding must still name the line of the allocation.
// finding: double free
// cases: device, managed, pinned
// libraries: -Xcompiler -O0
#include "../check.h"

int main(int argc, char** argv) {
    const std::string which = argv[1];
    int* p;
    if (which == "device") cudaMalloc(&p, 4);          // <- device
    if (which == "managed") cudaMallocManaged(&p, 4);  // <- managed
    if (which == "pinned") cudaMallocHost(&p, 4);      // <- pinned
    const auto free = [&] { which == "pinned" ? cudaFreeHost(p) : cudaFree(p); };
    free();
    if (argc == 2) free();
}
