# emulator.mk - the CUDA emulator; included by the top Makefile, or alone: make -f test/emulator/emulator.mk emulator
#
#   emulator        build/emulator/lib{cudart,cublasLt,cublas}.so.N and libnccl.so.2
#   emulator-test   unit tests, the known-good and the known-bad programs
#   emulator-check  the unit tests under sanitizers
#   emulator-bench  warp-instructions per second
EMU       := test/emulator
EMU_OUT   := build/emulator
CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda /usr/lib/cuda) /usr)
NVCC      ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) nvcc)
EMU_CUDA_INCLUDE := $(firstword $(wildcard $(CUDA_HOME)/include) /usr/include)
# g++ searches /usr/include by itself. As an option it would be searched before the headers of libstdc++.
EMU_SYSTEM := $(if $(filter-out /usr/include,$(EMU_CUDA_INCLUDE)),-isystem $(EMU_CUDA_INCLUDE))
EMU_N     := $(shell sed -n 's/^.define CUDART_VERSION *\([0-9]*\)[0-9]\{3\}$$/\1/p' \
                        $(EMU_CUDA_INCLUDE)/cuda_runtime_api.h)

EMU_CXX      ?= g++
# A register of 32 lanes fills two vectors of 512 bits, but compilers prefer vectors of 256 bits by default.
EMU_VECTOR   := $(shell echo | $(EMU_CXX) -march=native -mprefer-vector-width=512 -E - >/dev/null 2>&1 && \
                        echo -mprefer-vector-width=512)
EMU_FLAGS    := -std=c++20 -O3 -march=native $(EMU_VECTOR) -fno-math-errno -fno-trapping-math -ffp-contract=off \
                -fPIC -Wall -Wextra -MMD -MP -pthread -Itest/emulator $(EMU_SYSTEM) $(EMU_EXTRA)
EMU_LINK      = $(EMU_CXX) -shared -pthread -Wl,-soname,$(@F)
EMU_LZ       := -lzstd
EMU_NVCC     ?= $(NVCC) -std=c++17 -O3 -cudart shared -g -lineinfo -diag-suppress 177,20054

EMU_CORE := $(wildcard $(EMU)/engine/*.cpp)
EMU_RT   := $(wildcard $(EMU)/cudart/*.cpp)
EMU_BLAS := $(wildcard $(EMU)/cublas/*.cpp)
EMU_NCCL := $(wildcard $(EMU)/nccl/*.cpp)
emu_obj   = $(patsubst $(EMU)/%.cpp,$(EMU_OUT)/obj/%.o,$(1))
EMU_LIBS := $(EMU_OUT)/libcudart.so.$(EMU_N) $(EMU_OUT)/libcublasLt.so.$(EMU_N) $(EMU_OUT)/libcublas.so.$(EMU_N)
# NCCL is not a part of the toolkit. Without its header, its library and its tests are left out.
EMU_NCCL_H := $(firstword $(wildcard $(EMU_CUDA_INCLUDE)/nccl.h /usr/include/nccl.h))
ifneq ($(EMU_NCCL_H),)
EMU_LIBS += $(EMU_OUT)/libnccl.so.2
endif

.PHONY: emulator emulator-programs emulator-test emulator-check emulator-bench
emulator: $(EMU_LIBS)

# oneDNN uses the threads of OpenMP, and so do the passes before and after its products.
$(call emu_obj,$(EMU_BLAS)): EMU_FLAGS += -fopenmp

$(EMU_OUT)/obj/%.o: $(EMU)/%.cpp
	@mkdir -p $(@D)
	$(EMU_CXX) $(EMU_FLAGS) -c $< -o $@

# The names that the toolkit's headers declare, from which the three missing.cpp make functions. The real runtime also has
# names that no header of this toolkit declares, and variants for a default stream per thread and for other versions.
EMU_INTEROP := $(wildcard $(addprefix $(EMU_CUDA_INCLUDE)/cuda_,runtime_api.h gl_interop.h egl_interop.h vdpau_interop.h))
EMU_UNDECLARED := __cudaGetProcAddress cudaBindTexture cudaLaunchCooperativeKernelMultiDevice cudaSetDoubleForDevice \
                  cudaSetDoubleForHost cudaThreadGetCacheConfig cudaThreadGetLimit cudaThreadSetCacheConfig \
                  cudaThreadSetLimit cudaStreamGetCaptureInfo_v3 cudaStreamGetCaptureInfo_v3_ptsz
$(EMU_OUT)/cudart_names.inc: $(EMU_INTEROP)
	@mkdir -p $(@D)
	(cat $^ | tr '\n' ' ' | grep -oE 'CUDARTAPI(_CDECL)? +cuda[A-Za-z0-9]*' | \
	        sed -E 's/.* (.*)/\1 \1_ptsz \1_ptds \1_v2 \1_v2_ptsz/' | tr ' ' '\n'; printf '%s\n' $(EMU_UNDECLARED)) | \
	        sort -u | sed 's/.*/MISSING(&)/' > $@
$(EMU_OUT)/obj/cudart/missing.o: EMU_FLAGS += -I$(EMU_OUT)
$(EMU_OUT)/obj/cudart/missing.o: $(EMU_OUT)/cudart_names.inc
$(EMU_OUT)/cublas_names.inc: $(wildcard $(EMU_CUDA_INCLUDE)/cublas_api.h $(EMU_CUDA_INCLUDE)/cublasLt.h)
	@mkdir -p $(@D)
	cat $^ | tr '\n' ' ' | grep -o 'CUBLASWINAPI *cublas[A-Za-z0-9_]*' | sed 's/CUBLASWINAPI *\(.*\)/MISSING(\1)/' | \
	        sort -u > $@
$(EMU_OUT)/obj/cublas/missing.o: EMU_FLAGS += -I$(EMU_OUT)
$(EMU_OUT)/obj/cublas/missing.o: $(EMU_OUT)/cublas_names.inc
$(EMU_OUT)/nccl_names.inc: $(EMU_NCCL_H)
	@mkdir -p $(@D)
	grep -oE 'ncclResult_t +p?nccl[A-Za-z0-9_]*' $< | sed 's/.* \(.*\)/MISSING(\1)/' | sort -u > $@
$(EMU_OUT)/obj/nccl/missing.o: EMU_FLAGS += -I$(EMU_OUT)
$(EMU_OUT)/obj/nccl/missing.o: $(EMU_OUT)/nccl_names.inc

# Programs ask for the versioned symbols of the real libraries, so all symbols get one version node.
$(EMU_OUT)/%.map:
	@mkdir -p $(@D)
	@echo '$* { global: *; };' > $@

$(EMU_OUT)/libcudart.so.$(EMU_N): $(call emu_obj,$(EMU_CORE) $(EMU_RT)) | $(EMU_OUT)/libcudart.so.$(EMU_N).map
	$(EMU_LINK) -Wl,--version-script=$@.map -o $@ $^ $(EMU_LZ) -ldl
	ln -sf $(@F) $(EMU_OUT)/libcudart.so
$(EMU_OUT)/libcublasLt.so.$(EMU_N): $(call emu_obj,$(EMU_BLAS)) $(EMU_OUT)/libcudart.so.$(EMU_N) | \
        $(EMU_OUT)/libcublasLt.so.$(EMU_N).map
	$(EMU_LINK) -Wl,--version-script=$@.map -Wl,-rpath,'$$ORIGIN' -o $@ $^ -ldnnl -lgomp
# cublas and cublasLt are made of the same objects. Each has its own name and version node.
$(EMU_OUT)/libcublas.so.$(EMU_N): $(call emu_obj,$(EMU_BLAS)) $(EMU_OUT)/libcudart.so.$(EMU_N) | \
        $(EMU_OUT)/libcublas.so.$(EMU_N).map
	$(EMU_LINK) -Wl,--version-script=$@.map -Wl,-rpath,'$$ORIGIN' -o $@ $^ -ldnnl -lgomp
$(EMU_OUT)/libnccl.so.2: $(call emu_obj,$(EMU_NCCL)) $(EMU_OUT)/libcudart.so.$(EMU_N)
	$(EMU_LINK) -Wl,-rpath,'$$ORIGIN' -o $@ $^ -lrt

# --- tests: unit tests, then the programs as a user runs them ---------------------------------------------------------
EMU_PROGRAMS := $(patsubst $(EMU)/%.cu,$(EMU_OUT)/%,$(wildcard $(EMU)/programs/*/*.cu))
EMU_TESTS    := $(wildcard $(EMU)/tests/*.cpp)
ifeq ($(EMU_NCCL_H),)
EMU_PROGRAMS := $(filter-out %/nccl_ring %/collective,$(EMU_PROGRAMS))
EMU_TESTS    := $(filter-out %/test_nccl.cpp,$(EMU_TESTS))
endif

emulator-programs: $(EMU_PROGRAMS)
$(EMU_OUT)/programs/good/units: $(EMU)/programs/good/units/other.cu
$(patsubst $(EMU)/%.cu,$(EMU_OUT)/%,$(shell grep -l hopper.h $(EMU)/programs/*/*.cu)): $(EMU)/programs/hopper.h
$(patsubst $(EMU)/%.cu,$(EMU_OUT)/%,$(shell grep -l dependent.h $(EMU)/programs/*/*.cu)): $(EMU)/programs/dependent.h
# A line of a program can say for which device it is compiled (// arch: …) and with what it is linked (// libraries: …).
emu_says = $(shell sed -n 's|^// $(1): ||p' $(EMU)/programs/$*.cu)
$(EMU_OUT)/programs/%: $(EMU)/programs/%.cu $(EMU)/programs/check.h
	@mkdir -p $(@D)
	$(EMU_NVCC) $(or $(call emu_says,arch),-arch=compute_80) -o $@ $< $(call emu_says,libraries)

# The tests are not optimised, because compiling Catch2 with optimisation takes longer than running them without.
$(EMU_OUT)/obj/tests/%.o: EMU_FLAGS += -O0 -DCUDA_INCLUDE='"$(EMU_CUDA_INCLUDE)"' -DNCCL_HEADER='"$(EMU_NCCL_H)"'
$(EMU_OUT)/test: $(call emu_obj,$(EMU_TESTS)) $(EMU_LIBS)
	$(EMU_CXX) -o $@ $^ -Wl,-rpath,'$$ORIGIN' -pthread

# Without nvcc the programs are skipped, and the test says so.
emulator-test: $(EMU_OUT)/test $(if $(shell command -v $(NVCC) 2>/dev/null),emulator-programs)
	$(if $(ARGS),$(EMU_OUT)/test $(ARGS),scripts/test_parallel.sh $(EMU_OUT)/test '~[.]')

$(EMU_OUT)/bench: $(EMU_OUT)/obj/bench/bench_engine.o $(EMU_OUT)/libcudart.so.$(EMU_N)
	$(EMU_CXX) -o $@ $^ -Wl,-rpath,'$$ORIGIN' -pthread
emulator-bench: $(EMU_OUT)/bench
	$<

# The unit tests under the address and undefined-behaviour sanitizers, which must leave SIGSEGV to the emulator's handler.
# Programs may pass a number that is no enumerator, which the libraries refuse, so enum is not checked.
emulator-check:
	$(MAKE) -f $(EMU)/emulator.mk EMU_OUT=$(EMU_OUT)-san EMU_EXTRA=-O1 $(EMU_OUT)-san/test \
	        EMU_CXX="$(EMU_CXX) -fsanitize=address,undefined -fno-sanitize=enum -fno-sanitize-recover=undefined -g1"
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allow_user_segv_handler=1 $(EMU_OUT)-san/test '~[programs]'

-include $(shell find $(EMU_OUT)/obj -name '*.d' 2>/dev/null)
