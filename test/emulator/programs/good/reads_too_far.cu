// Merges of two sorted lists read one element too far, which is uninitialised shared memory. They discard the value: by
// a second predicate, by a selection, by a guard, and after it went through local memory.
#include <algorithm>

#include "../check.h"

constexpr int kEach = 24, kThreads = 32;

// Each thread outputs the element of its rank. The last elements of `a` and `b` are never written.
__global__ void merge(int* out, const int* x, int n, int m) {
    __shared__ int a[kEach + 1], b[kEach + 1];
    const int t = threadIdx.x;
    if (t < n) a[t] = x[t];
    if (t < m) b[t] = x[n + t];
    __syncthreads();
    int i = 0, j = 0, taken[2 * kEach];
    for (int k = 0; k < n + m; k++) {
        const int left = a[i], right = b[j];  // one of them may be past the end of its list
        const bool first = j >= m || (i < n && left <= right);
        taken[k]         = first ? left : right;
        first ? i++ : j++;
    }
    if (t < n + m) out[t] = taken[t];
    __syncthreads();
    if (t == 0)
        for (int k = 0; k < n + m; k++) out[k] = taken[k];
}

// The same choice is written in PTX, so that the compiler does not remove the read.
__global__ void choose(int* out, int n) {
    __shared__ int words[64];
    const int t = threadIdx.x;
    if (t < n) words[t] = t;
    __syncthreads();
    int by_and, by_selp, by_guard, moved;
    asm volatile(
        "{\n\t.reg .b32 far, sum;\n\t.reg .pred in, less, p, q;\n\t"
        "ld.volatile.shared.b32 far, [%4];\n\t"  // unwritten where t >= n
        "setp.lt.s32 in, %5, %6;\n\t"
        "setp.lt.s32 less, far, 1000;\n\t"
        "and.pred p, in, less;\n\t"
        "selp.b32 %0, 1, 2, p;\n\t"
        "setp.lt.and.s32 q, far, 1000, in;\n\t"
        "@q add.s32 %0, %0, 10;\n\t"
        "add.s32 sum, far, 5;\n\t"
        "selp.b32 %1, sum, -1, in;\n\t"
        "mov.b32 %2, -1;\n\t"
        "@in mov.b32 %2, far;\n\t"
        "st.shared.b32 [%4+128], far;\n\t"  // stored and loaded again
        "ld.shared.b32 %3, [%4+128];\n\t"
        "@!in mov.b32 %3, 0;\n\t}"
        : "=r"(by_and), "=r"(by_selp), "=r"(by_guard), "=r"(moved)
        : "r"(unsigned(__cvta_generic_to_shared(words + t))), "r"(t), "r"(n)
        : "memory");
    out[t] = by_and * 1000 + by_selp * 100 + by_guard * 10 + moved;
}

int main() {
    const int n = 24, m = 7;
    std::vector<int> x;
    for (int k = 0; k < n; k++) x.push_back(2 * k);
    for (int k = 0; k < m; k++) x.push_back(5 * k);
    Device<int> in(x), out(n + m), chosen(kThreads);
    merge<<<1, kThreads>>>(out, in, n, m);
    choose<<<1, kThreads>>>(chosen, 20);
    CUDA(cudaDeviceSynchronize());
    std::sort(x.begin(), x.end());
    EXPECT(out.host() == x);
    const auto got = chosen.host();
    for (int t = 0; t < kThreads; t++)
        EXPECT(got[t] == (t < 20 ? 11 * 1000 + (t + 5) * 100 + t * 10 + t : 2 * 1000 - 100 - 10));
    std::puts("ok");
}
