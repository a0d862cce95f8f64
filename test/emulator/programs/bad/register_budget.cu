// setmaxnreg asks for registers that the block does not have. 384 threads start with 168 each. When the producers give
// up 128 of theirs, the two warpgroups of consumers can have 64 more each, but not 72; and nobody can give up what he
// does not have.
// finding: register budget
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: inc, dec
#include "../hopper.h"

template <int Producer, int Consumer> __global__ void __launch_bounds__(384, 1) roles(int* out) {
    if (threadIdx.x < 128) {
        give_registers<Producer>();  // <- dec
    } else {
        take_registers<Consumer>();  // <- inc
    }
    out[threadIdx.x] = 1;
}

int main(int argc, char** argv) {
    Device<int> out(384);
    if (argc > 2) roles<24, 240><<<1, 384>>>(out);
    else if (argv[1][0] == 'i') roles<40, 240><<<1, 384>>>(out);
    else roles<200, 240><<<1, 384>>>(out);
    CUDA(cudaDeviceSynchronize());
}
