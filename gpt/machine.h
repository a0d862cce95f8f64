// machine.h - opens the device that the options name, and decides what their `auto` means on this machine
#pragma once
#include <omp.h>
#include <unistd.h>

#include <algorithm>

#include "gpt/shared_options.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

// The threads of a process that shares its machine with others. A launcher may have bound it to some of the cores. Open
// MPI binds each of two processes to one core, however many there are.
inline int threads_beside(int neighbours) {
    if (neighbours <= 1) return 0;
    const int all = host::within_quota(host::cores_of_control_group(int(sysconf(_SC_NPROCESSORS_ONLN)))),
              own = omp_get_num_procs(), share = std::max(1, all / neighbours);
    if (own < share)
        fmt::print(stderr,
                   "warning: the launcher lets this process use {} of {} cores, and {} processes share them; mpirun "
                   "--bind-to none, or --threads, gives it more\n",
                   own, all, neighbours);
    return std::min(own, share);
}

// Opens the device of --device. `local` is the number of this process on its machine, and so of its GPU; `neighbours`
// counts the processes there. A GPU that was asked for and cannot be used is an error that names the option.
inline Device open_device(const MachineOptions& o, int local = 0, int neighbours = 1) {
    const int threads = o.threads.value_or(threads_beside(neighbours));
    const int index   = o.device.is_auto() || o.device == Machine::cuda ? local : 0;
    if (o.device.is_auto()) return Device("auto", index, threads, o.sync);
    if (o.device == Machine::cpu) return Device("cpu", index, threads, o.sync);
    try {
        return Device("cuda", index, threads, o.sync);
    } catch (const Error& e) {
        throw Error(e.exit_code, fmt::format("--device cuda: {}; --device cpu runs without a GPU", e.what()));
    }
}
// Obeys --tf32, which needs a GPU and weights in fp32.
inline void use_tf32(const MachineOptions& o, const Device& device, DType dtype) {
    if (!o.tf32) return;
    CHECK(dtype == DType::F32, "--tf32 is for weights in fp32; these are in {} (--dtype fp32)", name_of(dtype));
    device.use_tf32();
}
// Obeys --attention. Asked for by name, Hopper's kernels need weights in bf16.
inline void use_attention(const MachineOptions& o, const Device& device, DType dtype) {
    CHECK(o.attention != AttentionKernels::hopper || dtype == DType::BF16,
          "--attention hopper is for weights in bf16; these are in {} (--dtype bf16)", name_of(dtype));
    device.use_attention(o.attention);
}
// Refuses a device on which this program cannot compute.
inline void refuse_without_products(const Device& device) {
    CHECK(
        device.where() == Machine::cuda || has_cpu_products(),
        "the CPU cannot be used: this program was built without oneDNN (make ONEDNN=0), so it multiplies on GPUs only");
}
inline DType dtype_on(const Device& device, const MachineOptions& o) {
    return o.dtype.value_or(device.fast_bf16() ? DType::BF16 : DType::F32);
}
