// per_thread.cpp - the functions for nvcc --default-stream per-thread, where stream 0 is the calling thread's own
// stream
#include "streams.h"

static cudaStream_t mine(cudaStream_t stream) { return stream ? stream : cudaStreamPerThread; }
static cudaError_t then_wait(cudaError_t error) { return error ? error : cudaStreamSynchronize(cudaStreamPerThread); }

extern "C" {
#define PTSZ(name, parameters, arguments) \
    cudaError_t name##_ptsz parameters { return name arguments; }
PTSZ(cudaLaunchKernel, (const void* f, dim3 g, dim3 b, void** a, size_t m, cudaStream_t s), (f, g, b, a, m, mine(s)))
PTSZ(cudaLaunchCooperativeKernel, (const void* f, dim3 g, dim3 b, void** a, size_t m, cudaStream_t s),
     (f, g, b, a, m, mine(s)))
PTSZ(cudaLaunchHostFunc, (cudaStream_t s, cudaHostFn_t f, void* d), (mine(s), f, d))
PTSZ(cudaStreamAddCallback, (cudaStream_t s, cudaStreamCallback_t f, void* d, unsigned n), (mine(s), f, d, n))
PTSZ(cudaMallocAsync, (void** p, size_t n, cudaStream_t s), (p, n, mine(s)))
PTSZ(cudaMallocFromPoolAsync, (void** p, size_t n, cudaMemPool_t l, cudaStream_t s), (p, n, l, mine(s)))
PTSZ(cudaFreeAsync, (void* p, cudaStream_t s), (p, mine(s)))
PTSZ(cudaMemcpyAsync, (void* d, const void* o, size_t n, cudaMemcpyKind k, cudaStream_t s), (d, o, n, k, mine(s)))
PTSZ(cudaMemcpy2DAsync,
     (void* d, size_t dp, const void* o, size_t op, size_t w, size_t h, cudaMemcpyKind k, cudaStream_t s),
     (d, dp, o, op, w, h, k, mine(s)))
PTSZ(cudaMemcpy3DAsync, (const cudaMemcpy3DParms* p, cudaStream_t s), (p, mine(s)))
PTSZ(cudaMemcpyToSymbolAsync, (const void* y, const void* o, size_t n, size_t f, cudaMemcpyKind k, cudaStream_t s),
     (y, o, n, f, k, mine(s)))
PTSZ(cudaMemcpyFromSymbolAsync, (void* d, const void* y, size_t n, size_t f, cudaMemcpyKind k, cudaStream_t s),
     (d, y, n, f, k, mine(s)))
PTSZ(cudaMemsetAsync, (void* p, int v, size_t n, cudaStream_t s), (p, v, n, mine(s)))
PTSZ(cudaMemset2DAsync, (void* p, size_t h, int v, size_t w, size_t r, cudaStream_t s), (p, h, v, w, r, mine(s)))
PTSZ(cudaMemset3DAsync, (cudaPitchedPtr p, int v, cudaExtent e, cudaStream_t s), (p, v, e, mine(s)))
PTSZ(cudaStreamSynchronize, (cudaStream_t s), (mine(s)))
PTSZ(cudaStreamQuery, (cudaStream_t s), (mine(s)))
PTSZ(cudaStreamWaitEvent, (cudaStream_t s, cudaEvent_t e, unsigned f), (mine(s), e, f))
PTSZ(cudaStreamGetFlags, (cudaStream_t s, unsigned* f), (mine(s), f))
PTSZ(cudaStreamGetPriority, (cudaStream_t s, int* p), (mine(s), p))
PTSZ(cudaStreamBeginCapture, (cudaStream_t s, cudaStreamCaptureMode m), (mine(s), m))
PTSZ(cudaStreamEndCapture, (cudaStream_t s, cudaGraph_t* g), (mine(s), g))
PTSZ(cudaStreamIsCapturing, (cudaStream_t s, cudaStreamCaptureStatus* t), (mine(s), t))
PTSZ(cudaStreamSetAttribute, (cudaStream_t s, cudaStreamAttrID i, const cudaStreamAttrValue* v), (mine(s), i, v))
PTSZ(cudaStreamGetAttribute, (cudaStream_t s, cudaStreamAttrID i, cudaStreamAttrValue* v), (mine(s), i, v))
PTSZ(cudaStreamAttachMemAsync, (cudaStream_t s, void* p, size_t n, unsigned f), (mine(s), p, n, f))
PTSZ(cudaEventRecord, (cudaEvent_t e, cudaStream_t s), (e, mine(s)))
PTSZ(cudaEventRecordWithFlags, (cudaEvent_t e, cudaStream_t s, unsigned f), (e, mine(s), f))
PTSZ(cudaGraphLaunch, (cudaGraphExec_t g, cudaStream_t s), (g, mine(s)))
PTSZ(cudaGraphUpload, (cudaGraphExec_t g, cudaStream_t s), (g, mine(s)))
PTSZ(cudaGraphInstantiateWithParams, (cudaGraphExec_t * e, cudaGraph_t g, cudaGraphInstantiateParams* p), (e, g, p))
#undef PTSZ

cudaError_t cudaLaunchKernelExC_ptsz(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
    if (!config) return cudaErrorInvalidValue;
    cudaLaunchConfig_t own = *config;
    own.stream             = mine(own.stream);
    return cudaLaunchKernelExC(&own, function, arguments);
}

// These copies and fills wait until they are done.
#define PTDS(name, parameters, call) \
    cudaError_t name##_ptds parameters { return then_wait(call); }
PTDS(cudaMemcpy, (void* d, const void* s, size_t n, cudaMemcpyKind k), cudaMemcpyAsync(d, s, n, k, cudaStreamPerThread))
PTDS(cudaMemcpy2D, (void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind k),
     cudaMemcpy2DAsync(d, dp, s, sp, w, h, k, cudaStreamPerThread))
PTDS(cudaMemcpy3D, (const cudaMemcpy3DParms* p), cudaMemcpy3DAsync(p, cudaStreamPerThread))
PTDS(cudaMemcpyToSymbol, (const void* y, const void* s, size_t n, size_t o, cudaMemcpyKind k),
     cudaMemcpyToSymbolAsync(y, s, n, o, k, cudaStreamPerThread))
PTDS(cudaMemcpyFromSymbol, (void* d, const void* y, size_t n, size_t o, cudaMemcpyKind k),
     cudaMemcpyFromSymbolAsync(d, y, n, o, k, cudaStreamPerThread))
PTDS(cudaMemset, (void* p, int v, size_t n), cudaMemsetAsync(p, v, n, cudaStreamPerThread))
PTDS(cudaMemset2D, (void* p, size_t h, int v, size_t w, size_t r),
     cudaMemset2DAsync(p, h, v, w, r, cudaStreamPerThread))
PTDS(cudaMemset3D, (cudaPitchedPtr p, int v, cudaExtent e), cudaMemset3DAsync(p, v, e, cudaStreamPerThread))
#undef PTDS
}  // extern "C"
