// memory.cpp - allocation, copies, fills
#include <cstring>
#include <map>
#include <set>

#include "modules.h"
#include "streams.h"

struct CUmemPoolHandle_st {
    std::map<int, uint64_t> attributes;
};

namespace emu {
namespace {

void* pointer_of(Address address) { return reinterpret_cast<void*>(address); }

// Where a pointer is valid. Pinned, managed and registered memory is valid on the host and on the device.
struct Place {
    bool host, device, pageable;
};
Place place_of(Address address) {
    const Allocation* a = Memory::get().find(address);
    if (!a) return {!Memory::get().in_arena(address), false, !Memory::get().in_arena(address)};
    const bool both = a->space == Space::Pinned || a->space == Space::Managed || a->space == Space::Registered;
    return {both, true, false};
}

void report_leaks() {
    if (sticky_error() == cudaSuccess) {
        std::lock_guard guard(runtime_lock());
        Queue::get().wait_all(kEveryDevice);  // operations that are still queued may have findings, too
    }
    if (options().check != Check::All) return;
    size_t count = 0, bytes = 0;
    const Allocation* first = nullptr;
    for (const Allocation* a : Memory::get().live())
        if (a->to_be_freed()) {
            if (!first) first = a;
            count++, bytes += a->bytes;
        }
    if (!count) return;
    Finding finding{};
    finding.kind = Kind::Leak;
    finding.what = std::to_string(count) + (count == 1 ? " allocation of " : " allocations with a total of ") +
                   std::to_string(bytes) + " bytes " +
                   (count == 1 ? "was never freed" : "were never freed; the first one follows");
    finding.kernel     = "end of the program";
    finding.address    = first->begin;
    finding.allocation = Memory::get().describe(first->begin);
    report(finding);
}

cudaError_t allocate(void** out, size_t bytes, Space space, int device = current_device()) {
    static const bool hooked = (at_exit(report_leaks), true);
    if (!out || !hooked) return cudaErrorInvalidValue;
    if (space != Space::Async)
        if (const cudaError_t error = refuse_during_capture()) return error;
    *out = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (bytes > Memory::get().arena_bytes) return cudaErrorMemoryAllocation;
    const Address address = Memory::get().allocate(bytes, space, call_site(true), false, device);
    if (!address) return cudaErrorMemoryAllocation;
    *out = pointer_of(address);
    return cudaSuccess;
}

// Allocates rows that begin at multiples of 512 bytes.
cudaError_t allocate_rows(void** out, size_t* pitch, size_t width, size_t rows) {
    size_t bytes;
    *pitch = (width + 511) / 512 * 512;
    if (*pitch < width || __builtin_mul_overflow(*pitch, rows, &bytes)) return cudaErrorMemoryAllocation;
    return allocate(out, bytes, Space::Device);
}

cudaError_t free_memory(void* pointer, bool host) {
    if (!pointer) return cudaSuccess;
    const Allocation* a = Memory::get().find(address_of(pointer));
    if (a && host != (a->space == Space::Pinned)) return cudaErrorInvalidValue;
    // Queued operations may still use the memory, and where it is not a device's alone those of any device.
    const cudaError_t error = wait_device(a && a->space == Space::Device ? a->device : kEveryDevice);
    if (error != cudaSuccess) return error;
    const FreeResult result = Memory::get().free(address_of(pointer), call_site());
    return result == FreeResult::Ok ? cudaSuccess : cudaErrorInvalidValue;
}

// A copy. All of them are copies of boxes: `depth` slices of `height` rows of `width` bytes.
struct Box {
    Address dst, src;
    size_t dst_pitch, src_pitch, dst_slice, src_slice;
    size_t width, height = 1, depth = 1;
    size_t dst_span() const { return (depth - 1) * dst_slice + (height - 1) * dst_pitch + width; }
    size_t src_span() const { return (depth - 1) * src_slice + (height - 1) * src_pitch + width; }
};

Box line(void* dst, const void* src, size_t bytes) {
    return {address_of(dst), address_of(src), bytes, bytes, bytes, bytes, bytes};
}

// When the checker refuses a part, the copy ends there with a finding and without an error.
cudaError_t run_copy(const Box& box, const char* what, uint32_t op) {
    for (size_t z = 0; z < box.depth; z++)
        for (size_t y = 0; y < box.height; y++)
            if (!Memory::get().copy(box.dst + z * box.dst_slice + y * box.dst_pitch,
                                    box.src + z * box.src_slice + y * box.src_pitch, box.width, what, op))
                return cudaSuccess;
    return cudaSuccess;
}

// Returns whether a range lies inside one live allocation or in plain host memory. Otherwise the checker reports it.
bool in_bounds(Address address, size_t bytes, Access access) {
    Memory& memory      = Memory::get();
    const Allocation* a = memory.find(address);
    if (a ? a->holds(address, bytes) : !memory.in_arena(address)) return true;
    memory.check(address, bytes, access, call_site().c_str());
    return false;
}

cudaError_t check_direction(const Box& box, cudaMemcpyKind kind) {
    const Place dst = place_of(box.dst), src = place_of(box.src);
    const bool to_device   = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (unsigned(kind) > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    if (!box.dst || !box.src) return cudaErrorInvalidValue;
    if (kind == cudaMemcpyDefault) return cudaSuccess;
    if ((to_device ? dst.device : dst.host) && (from_device ? src.device : src.host)) return cudaSuccess;
    if (Memory::get().in_arena(box.dst) && !dst.device && !dst.host)
        return cudaSuccess;  // the memory has been freed, which the checker reports
    if (Memory::get().in_arena(box.src) && !src.device && !src.host) return cudaSuccess;
    std::fprintf(stderr, "emulate: %s: the %s pointer %p is not %s memory, as the copy's direction says\n",
                 resolve_sites(call_site()).c_str(), (to_device ? dst.device : dst.host) ? "source" : "destination",
                 pointer_of((to_device ? dst.device : dst.host) ? box.src : box.dst),
                 ((to_device ? dst.device : dst.host) ? from_device : to_device) ? "device" : "host");
    return cudaErrorInvalidValue;
}

Work copy_work(const Box& box) {
    Work work{cudaGraphNodeTypeMemcpy, call_site()};
    if (place_of(box.dst).host && !place_of(box.dst).pageable)
        work.host.push_back({box.dst, box.dst_span(), Access::Write});
    if (place_of(box.src).host && !place_of(box.src).pageable)
        work.host.push_back({box.src, box.src_span(), Access::Read});
    work.run = [box, what = work.what](uint32_t op) { return run_copy(box, what.c_str(), op); };
    return work;
}

// CUDA's documentation ("API synchronization behavior") promises when a copy is done. A copy from pageable memory has
// read it when the call returns, and a copy into pageable memory is complete. Others may go on after the call.
cudaError_t copy(Box box, cudaMemcpyKind kind, cudaStream_t stream, bool asynchronous) {
    if (box.width == 0 || box.height == 0 || box.depth == 0) return cudaSuccess;
    if (const cudaError_t error = check_direction(box, kind)) return error;
    if (!in_bounds(box.src, box.src_span(), Access::Read) || !in_bounds(box.dst, box.dst_span(), Access::Write))
        return cudaErrorInvalidValue;
    const Place dst = place_of(box.dst), src = place_of(box.src);
    const bool host_to_host = dst.host && src.host;
    if (!asynchronous || is_capturing(stream)) {
        Work work        = copy_work(box);
        const bool waits = !asynchronous && (dst.host || src.host);
        if (waits) work.host.clear();  // the host waits in this call and cannot touch the memory meanwhile
        if (const cudaError_t error = submit(stream, std::move(work))) return error;
        return waits ? wait_stream(stream) : cudaSuccess;
    }
    if (src.pageable && !dst.host) {  // the bytes go through a staging buffer
        auto staging = std::make_shared<std::vector<std::byte>>(box.width * box.height * box.depth);
        Box in       = box;
        in.dst       = address_of(staging->data());
        in.dst_pitch = box.width;
        in.dst_slice = box.width * box.height;
        run_copy(in, "staging", 0);
        Box out       = box;
        out.src       = in.dst;
        out.src_pitch = in.dst_pitch;
        out.src_slice = in.dst_slice;
        Work work     = copy_work(out);
        work.run      = [out, staging, what = work.what](uint32_t op) { return run_copy(out, what.c_str(), op); };
        return submit(stream, std::move(work));
    }
    Work work = copy_work(box);
    if (dst.pageable || host_to_host) work.host.clear();
    if (const cudaError_t error = submit(stream, std::move(work))) return error;
    return dst.pageable || host_to_host ? wait_stream(stream) : cudaSuccess;
}

struct Fill {
    Address dst;
    size_t pitch, slice, width, height, depth;
    uint32_t value;
    size_t element = 1;
    size_t span() const { return (depth - 1) * slice + (height - 1) * pitch + width * element; }
};

Work fill_work(const Fill& fill) {
    Work work{cudaGraphNodeTypeMemset, call_site()};
    if (place_of(fill.dst).host) work.host.push_back({fill.dst, fill.span(), Access::Write});
    work.run = [fill, what = work.what](uint32_t op) {
        for (size_t z = 0; z < fill.depth; z++)
            for (size_t y = 0; y < fill.height; y++)
                if (!Memory::get().fill(fill.dst + z * fill.slice + y * fill.pitch, fill.value, fill.element,
                                        fill.width, what.c_str(), op))
                    return cudaSuccess;
        return cudaSuccess;
    };
    return work;
}

cudaError_t fill(const Fill& fill, cudaStream_t stream, bool asynchronous) {
    if (!fill.width || !fill.height || !fill.depth) return cudaSuccess;
    if (!place_of(fill.dst).device && !Memory::get().in_arena(fill.dst)) return cudaErrorInvalidValue;
    if (!in_bounds(fill.dst, fill.span(), Access::Write)) return cudaErrorInvalidValue;
    const bool waits = !asynchronous && place_of(fill.dst).host;
    if (const cudaError_t error = submit(stream, fill_work(fill))) return error;
    return waits ? wait_stream(stream) : cudaSuccess;
}

// Describes a 3-D copy as a box. Copies of arrays are not supported.
cudaError_t box_of(const cudaMemcpy3DParms& p, Box& box) {
    if (p.srcArray || p.dstArray) return lacking("copies of arrays");
    const auto at = [](const cudaPitchedPtr& ptr, const cudaPos& pos) {
        return address_of(ptr.ptr) + (pos.z * ptr.ysize + pos.y) * ptr.pitch + pos.x;
    };
    box = {at(p.dstPtr, p.dstPos),
           at(p.srcPtr, p.srcPos),
           p.dstPtr.pitch,
           p.srcPtr.pitch,
           p.dstPtr.pitch * p.dstPtr.ysize,
           p.srcPtr.pitch * p.srcPtr.ysize,
           p.extent.width,
           p.extent.height,
           p.extent.depth};
    return box.width > box.dst_pitch || box.width > box.src_pitch ? cudaErrorInvalidPitchValue : cudaSuccess;
}

auto& pool_of_device = *new std::map<int, cudaMemPool_t>;
auto& default_pools  = *new std::map<int, CUmemPoolHandle_st>;
auto& created_pools  = *new std::set<cudaMemPool_t>;
cudaMemPool_t default_pool(int device) { return &default_pools[device]; }
bool is_pool(cudaMemPool_t pool) {
    for (auto& [device, ours] : default_pools)
        if (&ours == pool) return true;
    return created_pools.count(pool);
}

}  // namespace

cudaError_t make_work(const cudaMemcpy3DParms& params, Work& work) {
    Box box;
    if (const cudaError_t error = box_of(params, box)) return error;
    if (const cudaError_t error = check_direction(box, params.kind)) return error;
    work        = copy_work(box);
    work.params = params;
    return cudaSuccess;
}
cudaError_t make_work(const cudaMemsetParams& p, Work& work) {
    if (p.elementSize != 1 && p.elementSize != 2 && p.elementSize != 4) return cudaErrorInvalidValue;
    if (!p.width || !p.height) return cudaErrorInvalidValue;
    if (!place_of(address_of(p.dst)).device) return cudaErrorInvalidValue;
    work = fill_work({address_of(p.dst), p.pitch, p.pitch * p.height, p.width, p.height, 1, p.value, p.elementSize});
    work.params = p;
    return cudaSuccess;
}

}  // namespace emu

using namespace emu;

// --- allocation -----------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    return CALL.run([&] { return allocate(pointer, bytes, Space::Device); }, bytes);
}
cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width, size_t height) {
    return CALL.run(
        [&] {
            if (!pitch) return cudaErrorInvalidValue;
            return allocate_rows(pointer, pitch, width, height);
        },
        width, height);
}
cudaError_t cudaMalloc3D(cudaPitchedPtr* out, cudaExtent extent) {
    return CALL.run([&] {
        if (!out) return cudaErrorInvalidValue;
        size_t rows;
        if (__builtin_mul_overflow(extent.height, extent.depth, &rows)) return cudaErrorMemoryAllocation;
        *out = {nullptr, 0, extent.width, extent.height};
        return allocate_rows(&out->ptr, &out->pitch, extent.width, rows);
    });
}
cudaError_t cudaFree(void* pointer) {
    return CALL.run([&] { return free_memory(pointer, false); }, pointer);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
    return CALL.run([&] { return allocate(pointer, bytes, Space::Pinned); }, bytes);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    return CALL.run([&] { return allocate(pointer, bytes, Space::Pinned); }, bytes);
}
cudaError_t cudaFreeHost(void* pointer) {
    return CALL.run([&] { return free_memory(pointer, true); }, pointer);
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
    return CALL.run(
        [&] {
            if (!pointer || !bytes || Memory::get().in_arena(address_of(pointer))) return cudaErrorInvalidValue;
            if (Memory::get().find(address_of(pointer))) return cudaErrorHostMemoryAlreadyRegistered;
            Memory::get().register_host(pointer, bytes, call_site(), current_device());
            return cudaSuccess;
        },
        pointer, bytes, flags);
}
cudaError_t cudaHostUnregister(void* pointer) {
    return CALL.run(
        [&] {
            if (const cudaError_t error = wait_device(kEveryDevice)) return error;
            return Memory::get().unregister_host(pointer) ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
        },
        pointer);
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
    return CALL.run(
        [&] {
            const Place place = place_of(address_of(host));
            return place.host && place.device ? answer(device, host) : cudaErrorInvalidValue;
        },
        host);
}
cudaError_t cudaHostGetFlags(unsigned* flags, void* host) {
    return CALL.run(
        [&] {
            const Place place = place_of(address_of(host));
            if (!place.host || !place.device) return cudaErrorInvalidValue;
            return answer(flags, cudaHostAllocPortable | cudaHostAllocMapped);
        },
        host);
}

cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
    return CALL.run(
        [&] {
            if (!bytes || (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost)) return cudaErrorInvalidValue;
            return allocate(pointer, bytes, Space::Managed);
        },
        bytes, flags);
}

// --- stream-ordered allocation --------------------------------------------------------------------------------------

static cudaError_t allocate_async(void** pointer, size_t bytes, cudaStream_t stream) {
    const CUstream_st* queue = find_stream(stream);
    if (!queue) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = allocate(pointer, bytes, Space::Async, queue->device)) return error;
    if (!*pointer) return cudaSuccess;
    Work work{cudaGraphNodeTypeMemAlloc, call_site()};
    // The race check treats allocation and freeing as writes, so every access must be ordered between them. In a graph
    // the address is the same at every launch, and its bytes become uninitialised again.
    const bool again = is_capturing(stream);
    work.run         = [again, address = address_of(*pointer), bytes, what = work.what](uint32_t op) {
        Memory::get().check(address, bytes, Access::Write, what.c_str(), op);
        if (again) Memory::get().mark_unwritten(address, bytes);
        return cudaSuccess;
    };
    return submit(stream, std::move(work));
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    return CALL.run([&] { return allocate_async(pointer, bytes, stream); }, bytes, stream);
}
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
    return CALL.run(
        [&] {
            if (!is_pool(pool)) return cudaErrorInvalidValue;
            return allocate_async(pointer, bytes, stream);
        },
        bytes, pool, stream);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
    return CALL.run(
        [&] {
            if (!pointer) return cudaSuccess;
            Work work{cudaGraphNodeTypeMemFree, call_site()};
            if (!is_capturing(stream)) {
                const Allocation* a = Memory::get().find(address_of(pointer));
                if (!a || a->begin != address_of(pointer)) {
                    Memory::get().free(address_of(pointer), call_site());  // reports the mistake
                    return cudaErrorInvalidValue;
                }
                work.run = [pointer, bytes = a->bytes, by = call_site()](uint32_t op) {
                    if (Memory::get().find(address_of(pointer)))
                        Memory::get().check(address_of(pointer), bytes, Access::Write, by.c_str(), op);
                    return Memory::get().free(address_of(pointer), by) == FreeResult::Ok ? cudaSuccess
                                                                                         : cudaErrorInvalidValue;
                };
            }
            return submit(stream, std::move(work));
        },
        pointer, stream);
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    return CALL.run([&] { return is_device(device) ? answer(pool, default_pool(device)) : cudaErrorInvalidDevice; },
                    device);
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
    return CALL.run(
        [&] {
            if (!is_device(device)) return cudaErrorInvalidDevice;
            return answer(pool, pool_of_device.count(device) ? pool_of_device[device] : default_pool(device));
        },
        device);
}
cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool) {
    return CALL.run(
        [&] {
            if (!is_device(device)) return cudaErrorInvalidDevice;
            return is_pool(pool) ? answer(&pool_of_device[device], pool) : cudaErrorInvalidValue;
        },
        device, pool);
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
    return CALL.run([&] {
        if (!pool || !properties) return cudaErrorInvalidValue;
        return answer(pool, *created_pools.insert(new CUmemPoolHandle_st).first);
    });
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    return CALL.run(
        [&] {
            if (!created_pools.erase(pool)) return cudaErrorInvalidValue;  // a default pool cannot be destroyed
            for (auto& [device, current] : pool_of_device)
                if (current == pool) current = default_pool(device);
            delete pool;
            return cudaSuccess;
        },
        pool);
}
static bool is_wide(cudaMemPoolAttr attribute) { return attribute >= cudaMemPoolAttrReleaseThreshold; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    return CALL.run(
        [&] {
            if (!is_pool(pool) || !value) return cudaErrorInvalidValue;
            pool->attributes[attribute] =
                is_wide(attribute) ? *static_cast<uint64_t*>(value) : *static_cast<int*>(value);
            return cudaSuccess;
        },
        pool, attribute);
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    return CALL.run(
        [&] {
            if (!is_pool(pool) || !value) return cudaErrorInvalidValue;
            uint64_t answer = pool->attributes.count(attribute) ? pool->attributes[attribute]
                              : is_wide(attribute)              ? 0
                                                                : 1;
            if (attribute == cudaMemPoolAttrUsedMemCurrent || attribute == cudaMemPoolAttrReservedMemCurrent) {
                answer = 0;
                for (const Allocation* a : Memory::get().live())
                    if (a->space == Space::Async) answer += a->bytes;
            }
            if (is_wide(attribute)) *static_cast<uint64_t*>(value) = answer;
            else *static_cast<int*>(value) = int(answer);
            return cudaSuccess;
        },
        pool, attribute);
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
    return CALL.run([&] { return is_pool(pool) ? cudaSuccess : cudaErrorInvalidValue; }, pool);
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc*, size_t) {
    return CALL.run([&] { return is_pool(pool) ? cudaSuccess : cudaErrorInvalidValue; }, pool);
}
cudaError_t cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t pool, cudaMemLocation*) {
    return CALL.run(
        [&] { return is_pool(pool) ? answer(flags, cudaMemAccessFlagsProtReadWrite) : cudaErrorInvalidValue; }, pool);
}

// --- what a pointer is ----------------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return CALL.run([&] {
        if (total) *total = Memory::get().capacity();
        if (free) *free = Memory::get().capacity() - Memory::get().used(current_device());
        return cudaSuccess;
    });
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
    return CALL.run(
        [&] {
            if (!out || !pointer) return cudaErrorInvalidValue;
            *out                = {};
            out->type           = cudaMemoryTypeUnregistered;
            const Allocation* a = Memory::get().find(address_of(pointer));
            if (!a) {
                out->device      = -2;  // cudaInvalidDeviceId, because a plain host pointer has no device
                out->hostPointer = Memory::get().in_arena(address_of(pointer)) ? nullptr : const_cast<void*>(pointer);
                return cudaSuccess;
            }
            out->device        = a->device;
            out->devicePointer = const_cast<void*>(pointer);
            if (place_of(address_of(pointer)).host) out->hostPointer = const_cast<void*>(pointer);
            out->type = a->space == Space::Managed                                   ? cudaMemoryTypeManaged
                        : a->space == Space::Pinned || a->space == Space::Registered ? cudaMemoryTypeHost
                                                                                     : cudaMemoryTypeDevice;
            return cudaSuccess;
        },
        pointer);
}

// Hints about placement change nothing, because host and device share one memory here.
#if CUDART_VERSION >= 13000
cudaError_t cudaMemPrefetchAsync(const void* pointer, size_t bytes, cudaMemLocation, unsigned, cudaStream_t stream) {
#else
cudaError_t cudaMemPrefetchAsync(const void* pointer, size_t bytes, int, cudaStream_t stream) {
#endif
    return CALL.run(
        [&] {
            const Allocation* a = Memory::get().find(address_of(pointer));
            if (!find_stream(stream)) return cudaErrorInvalidResourceHandle;
            return a && a->space == Space::Managed && a->holds(address_of(pointer), bytes) ? cudaSuccess
                                                                                           : cudaErrorInvalidValue;
        },
        pointer, bytes, stream);
}
#if CUDART_VERSION >= 13000
cudaError_t cudaMemAdvise(const void* pointer, size_t bytes, cudaMemoryAdvise advice, cudaMemLocation) {
#else
cudaError_t cudaMemAdvise(const void* pointer, size_t bytes, cudaMemoryAdvise advice, int) {
#endif
    return CALL.run(
        [&] {
            const Allocation* a = Memory::get().find(address_of(pointer));
            return a && a->space == Space::Managed ? cudaSuccess : cudaErrorInvalidValue;
        },
        pointer, bytes, advice);
}

// --- copies ---------------------------------------------------------------------------------------------------------

cudaError_t cudaMemcpy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
    return CALL.run([&] { return copy(line(dst, src, bytes), kind, nullptr, false); }, dst, src, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return CALL.run([&] { return copy(line(dst, src, bytes), kind, stream, true); }, dst, src, bytes, kind, stream);
}
static cudaError_t copy_peer(void* dst, int to, const void* src, int from, size_t bytes, cudaStream_t stream,
                             bool asynchronous) {
    if (!is_device(to) || !is_device(from)) return cudaErrorInvalidDevice;
    return copy(line(dst, src, bytes), cudaMemcpyDeviceToDevice, stream, asynchronous);
}
cudaError_t cudaMemcpyPeer(void* dst, int to, const void* src, int from, size_t bytes) {
    return CALL.run([&] { return copy_peer(dst, to, src, from, bytes, nullptr, false); }, dst, to, src, from, bytes);
}
cudaError_t cudaMemcpyPeerAsync(void* dst, int to, const void* src, int from, size_t bytes, cudaStream_t stream) {
    return CALL.run([&] { return copy_peer(dst, to, src, from, bytes, stream, true); }, dst, to, src, from, bytes);
}

static cudaError_t copy_2d(void* dst, size_t dst_pitch, const void* src, size_t src_pitch, size_t width, size_t height,
                           cudaMemcpyKind kind, cudaStream_t stream, bool asynchronous) {
    if (width > dst_pitch || width > src_pitch) return cudaErrorInvalidPitchValue;
    const Box box{address_of(dst), address_of(src), dst_pitch, src_pitch, 0, 0, width, height};
    return copy(box, kind, stream, asynchronous);
}
cudaError_t cudaMemcpy2D(void* dst, size_t dst_pitch, const void* src, size_t src_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
    return CALL.run([&] { return copy_2d(dst, dst_pitch, src, src_pitch, width, height, kind, nullptr, false); }, dst,
                    dst_pitch, src, src_pitch, width, height, kind);
}
cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    return CALL.run([&] { return copy_2d(dst, dst_pitch, src, src_pitch, width, height, kind, stream, true); }, dst,
                    dst_pitch, src, src_pitch, width, height, kind, stream);
}
static cudaError_t copy_3d(const cudaMemcpy3DParms* params, cudaStream_t stream, bool asynchronous) {
    Box box;
    if (!params) return cudaErrorInvalidValue;
    if (const cudaError_t error = box_of(*params, box)) return error;
    return copy(box, params->kind, stream, asynchronous);
}
cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* params) {
    return CALL.run([&] { return copy_3d(params, nullptr, false); });
}
cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* params, cudaStream_t stream) {
    return CALL.run([&] { return copy_3d(params, stream, true); }, stream);
}

static cudaError_t copy_symbol(const void* symbol, size_t offset, const void* other, size_t bytes, bool to_symbol,
                               cudaMemcpyKind kind, cudaStream_t stream, bool asynchronous) {
    void* place;
    if (const cudaError_t error = symbol_range(symbol, offset, bytes, &place)) return error;
    const Box box = to_symbol ? line(place, other, bytes) : line(const_cast<void*>(other), place, bytes);
    return copy(box, kind, stream, asynchronous);
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* src, size_t bytes, size_t offset, cudaMemcpyKind kind) {
    return CALL.run([&] { return copy_symbol(symbol, offset, src, bytes, true, kind, nullptr, false); }, symbol, src,
                    bytes, offset, kind);
}
cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* src, size_t bytes, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t stream) {
    return CALL.run([&] { return copy_symbol(symbol, offset, src, bytes, true, kind, stream, true); }, symbol, src,
                    bytes, offset, kind, stream);
}
cudaError_t cudaMemcpyFromSymbol(void* dst, const void* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind) {
    return CALL.run([&] { return copy_symbol(symbol, offset, dst, bytes, false, kind, nullptr, false); }, dst, symbol,
                    bytes, offset, kind);
}
cudaError_t cudaMemcpyFromSymbolAsync(void* dst, const void* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
    return CALL.run([&] { return copy_symbol(symbol, offset, dst, bytes, false, kind, stream, true); }, dst, symbol,
                    bytes, offset, kind, stream);
}

// --- fills ----------------------------------------------------------------------------------------------------------

static Fill rows(void* dst, size_t pitch, int value, size_t width, size_t height) {
    return {address_of(dst), pitch, 0, width, height, 1, uint8_t(value)};
}
cudaError_t cudaMemset(void* dst, int value, size_t bytes) {
    return CALL.run([&] { return fill(rows(dst, bytes, value, bytes, 1), nullptr, false); }, dst, value, bytes);
}
cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
    return CALL.run([&] { return fill(rows(dst, bytes, value, bytes, 1), stream, true); }, dst, value, bytes, stream);
}
cudaError_t cudaMemset2D(void* dst, size_t pitch, int value, size_t width, size_t height) {
    return CALL.run([&] { return fill(rows(dst, pitch, value, width, height), nullptr, false); }, dst, pitch, value,
                    width, height);
}
cudaError_t cudaMemset2DAsync(void* dst, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
    return CALL.run([&] { return fill(rows(dst, pitch, value, width, height), stream, true); }, dst, pitch, value,
                    width, height, stream);
}
static cudaError_t fill_3d(const cudaPitchedPtr& p, int value, const cudaExtent& e, cudaStream_t stream,
                           bool asynchronous) {
    return fill({address_of(p.ptr), p.pitch, p.pitch * p.ysize, e.width, e.height, e.depth, uint8_t(value)}, stream,
                asynchronous);
}
cudaError_t cudaMemset3D(cudaPitchedPtr pointer, int value, cudaExtent extent) {
    return CALL.run([&] { return fill_3d(pointer, value, extent, nullptr, false); }, pointer.ptr, value);
}
cudaError_t cudaMemset3DAsync(cudaPitchedPtr pointer, int value, cudaExtent extent, cudaStream_t stream) {
    return CALL.run([&] { return fill_3d(pointer, value, extent, stream, true); }, pointer.ptr, value, stream);
}
