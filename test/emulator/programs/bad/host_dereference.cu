// The host reads a device pointer.
// finding: host access to device memory
#include "../check.h"

int main(int argc, char**) {
    Device<int> x(std::vector<int>(16, 5));
    const int first = argc > 1 ? x.host()[0] : x.data[0];  // <-
    std::printf("%d\n", first);
}
