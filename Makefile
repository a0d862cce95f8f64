# make                build train_gpt, infer_gpt and tokenize
# make quickstart     install what is missing, build, prepare a text, train a small model on it, and sample from the model
# make setup          install the libraries that the build needs; scripts/setup.sh --help lists the other ways
# make test           run every test that this machine can run; make test ARGS='layernorm*' runs those of that name
# make emulator       build the emulator; scripts/emulate PROGRAM then runs a CUDA program on the CPU (test/emulator/README.md)
# make test-cuda      run the emulator's own tests, then those of the CUDA half under it; needs nvcc and no GPU
# make recipes        list the recipes for published results: what to expect, what each takes as planned, and whether it was tried
# make check-recipes  run each recipe in short, and the one for CPUs in full, with three seeds: about four minutes on two cores
# make bench          time ops, training, decoding, tokenizing and the emulator. ARGS= chooses one part, such as 'ops gelu';
#                     scripts/bench.sh lists them, and also peers, costs and cuda, which run only when they are chosen
# make fuzz           give random input to the readers of files from elsewhere, a minute each (SECONDS_EACH=60); needs clang++
# make check          compile with warnings as errors, test under sanitizers, check the format and which way includes point
# make check-transformers   train every family and compare its checkpoint with transformers, which $(PYTHON) must have
# make ptxas          print registers, shared memory and spills of every CUDA kernel; a spill is an error
# make install        install the programs, their man pages and their completion for bash into PREFIX=/usr/local
# make uninstall      remove what make install with the same PREFIX= (and DESTDIR=) installed
# make dist           make an archive with all libraries, for any x86-64 Linux with a glibc as new as this one (scripts/dist.sh)
# make clean          remove what make has built
# make help           print these lines
#
# PORTABLE=1 builds for any CPU of this architecture, not for this machine's own instruction set. On x86-64 it builds the kernels
# for the levels v2, v3 and v4 (SSE, AVX2, AVX-512), and programs choose when they start; --cpu v2 asks for one of them.
# BUILD=DIR builds into DIR instead of build. CXX= names another compiler. V=1 shows whole commands.
# With nvcc (on PATH or in /usr/local/cuda) the binaries have a CPU half and a CUDA half; CUDA=0 builds the CPU half alone.
# ARCH=90 or ARCH='80 90' chooses the GPUs to make code for. The default is this machine's GPU, or sm_80 and sm_90 where there
# is none that nvcc knows. NVCC_CXX=g++-13 names another host compiler, for an nvcc that refuses $(CXX).
# ONEDNN=0 builds without oneDNN, for machines that only run on GPUs: such programs refuse to run on the CPU.
# Where libedit is installed, --chat of infer_gpt has line editing and history; EDIT=0 leaves it out.
# Where NCCL is installed, train_gpt can run on several GPUs; NCCL=0 leaves it out. Where Open MPI's headers are, it can run as
# several processes on CPUs; MPI=0 leaves that out. Open MPI's library is not linked: a program opens it when it needs it.

CXX      ?= g++
BUILD    ?= build
PORTABLE ?= 0
ONEDNN   ?= 1
OPT      ?= -O3
# With PORTABLE=1 on x86-64, the kernels become a library for each level of CPUs, in folders that glibc's loader knows: it takes the
# library of the highest level that the CPU has. Everything else is compiled for v2, so no inline function of a higher level can
# end up in a program. This Makefile calls itself with CPU_LEVEL= to make a library.
LEVELS   := $(if $(filter-out 0,$(PORTABLE)),$(if $(filter x86_64-%,$(shell $(CXX) -dumpmachine)),$(if $(CPU_LEVEL),,v2 v3 v4)))
MARCH    := $(if $(CPU_LEVEL),-march=x86-64-$(CPU_LEVEL) -DGPT_CPU_LEVEL=$(CPU_LEVEL:v%=%) -fPIC -fno-semantic-interposition,$\
            $(if $(LEVELS),-march=x86-64-v2,$(if $(filter 0,$(PORTABLE)),-march=native)))
CXXFLAGS += -std=c++17 $(OPT) $(MARCH) -fopenmp -fno-math-errno -ffp-contract=fast -Wall -Wextra -Wno-psabi -I. -MMD -MP
LDLIBS   += $(if $(filter-out 0,$(ONEDNN)),-ldnnl) -lfmt -lutf8proc -lzstd -lz -fopenmp -lpthread -ldl
# Where make install and make dist put libraries that are not the system's own. With BUNDLE=1 (make dist) those are all but
# glibc's. oneDNN's own dependency is named because a RUNPATH serves only the libraries that the program itself names.
BUNDLE   ?= 0
LDLIBS   += -Wl,--enable-new-dtags -Wl,-rpath,'$$ORIGIN/../lib/gpt.cu' $(if $(filter-out 0,$(BUNDLE)),$(OPENCL))
OPENCL    = -Wl,--no-as-needed $(patsubst %,-l:%,$(notdir $(firstword $(wildcard $(addsuffix /libOpenCL.so.1, \
            $(DEPS)/$(DEPS_LIB) /usr/lib/$(shell $(CXX) -print-multiarch))))))
# Libraries that scripts/setup.sh --local unpacked, for users without root.
DEPS     := $(wildcard build-deps/usr)
ifneq ($(DEPS),)
DEPS_LIB := lib/$(shell $(CXX) -print-multiarch)
CXXFLAGS += -isystem $(DEPS)/include
LDLIBS   += -L$(DEPS)/$(DEPS_LIB) -Wl,-rpath,'$$ORIGIN/../$(DEPS)/$(DEPS_LIB)' $(OPENCL)
endif
MPI      ?= 1
MPI_H    := $(if $(filter-out 0,$(MPI)),$(firstword $(wildcard $(addsuffix /mpi.h,/usr/include /usr/local/include \
            /usr/lib/$(shell $(CXX) -print-multiarch)/openmpi/include /usr/include/openmpi-x86_64))))
# libedit needs other libraries, which a RUNPATH does not find. So it is used where the system has it, and not in an archive.
EDIT     ?= $(if $(filter 0,$(BUNDLE)),1,0)
EDIT_H   := $(if $(filter-out 0,$(EDIT)),$(wildcard $(addsuffix /histedit.h,/usr/include /usr/local/include)))
CATCH3   := $(if $(wildcard $(addsuffix /catch2/catch_all.hpp,/usr/include /usr/local/include $(DEPS)/include)),-lCatch2)
COMMIT   := $(shell git describe --always --dirty --abbrev=7 2>/dev/null || echo release)

comma    := ,

# ---- CUDA ----------------------------------------------------------------------------------------------------------------
CUDA     ?= 1
NVCC     ?= $(if $(filter-out 0,$(CUDA)),$(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc)))
NVCC_CXX ?= $(CXX)
ifneq ($(NVCC),)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib/x86_64-linux-gnu) /usr/lib/x86_64-linux-gnu)
KNOWN     := $(filter-out 5% 6% 7%,$(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch)))
GPUS      := $(filter $(KNOWN),$(sort $(subst .,,$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null))))
ARCH      ?= $(if $(GPUS),$(GPUS),80 90)
# Machine code for each of these GPUs, and PTX for later ones and for test/emulator, which cannot read it when it is compressed. Kernels
# that begin early (kernels/queue.cuh) need PTX of 9.0. Attention and products have kernels with instructions that only sm_90a has, so
# there it takes the place of sm_90.
OF_90      = $(if $(HOPPER),90a,90)
GENCODE    = $(foreach a,$(ARCH),-gencode $(if $(filter 90,$(a)),arch=compute_$(OF_90)$(comma)code=[sm_$(OF_90)$(comma)compute_$(OF_90)],$\
             arch=compute_$(a)$(comma)code=sm_$(a))) -gencode arch=compute_80,code=compute_80
space     := $(subst ,, )
NVFLAGS   = -std=c++17 $(OPT) $(GENCODE) --no-compress -Xptxas -v -I. -MMD -MP \
            -Xcompiler $(subst $(space),$(comma),$(strip $(filter-out -std=% -I% -M% $(OPT),$(CXXFLAGS))))
# The CUDA runtime is linked as a shared library and found through RUNPATH. LD_LIBRARY_PATH goes before that, so the emulator's
# libraries can take its place.
LDLIBS    += -L$(CUDA_LIB) -lcublasLt -lcudart -Wl,-rpath,$(CUDA_LIB)
# NCCL is built in where its header is found. A program opens the library when it runs on several GPUs (kernels/open_nccl.h).
NCCL      ?= 1
NCCL_H    := $(firstword $(wildcard $(addsuffix /nccl.h,$(CUDA_HOME)/include /usr/include /usr/local/include)))
ifneq ($(and $(filter-out 0,$(NCCL)),$(NCCL_H)),)
NVFLAGS   += -DGPT_NCCL -I$(dir $(NCCL_H))
WITH_NCCL := , NCCL $(shell sed -n 's/^.define NCCL_MAJOR *//p' $(NCCL_H)).$(shell sed -n 's/^.define NCCL_MINOR *//p' $(NCCL_H))
endif
HALVES    := cpu and cuda halves ($(notdir $(NVCC)) $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), $(patsubst %,sm_%,$(ARCH))$(WITH_NCCL))
else
HALVES    := cpu half
ifeq ($(ONEDNN),0)
$(error ONEDNN=0 leaves matrix products to the CUDA half, and this build has none: it needs nvcc on PATH or in /usr/local/cuda, and no CUDA=0)
endif
endif

OBJECTS  := $(patsubst %.cu,$(BUILD)/%.o,$(wildcard kernels/*.cu))
KERNELS  := $(if $(LEVELS),$(LEVELS:%=$(BUILD)/glibc-hwcaps/x86-64-%/libgpt_kernels.so),$(OBJECTS))
PTXAS    := $(BUILD)/$(if $(LEVELS),glibc-hwcaps/x86-64-v2/)kernels/*.ptxas
TESTS    := $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard test/test_*.cpp) test/main.cpp)
PROGRAMS := train_gpt infer_gpt tokenize

# $(call doing,WORDS) begins a recipe: it prints WORDS in place of the command, and a heading before the first of them.
V        ?= 0
Q        := $(if $(filter 0,$(V)),@)
doing     = @$(if $(Q),$(if $(begun),,$(eval begun := yes)echo '$(heading)';) echo '    $(1)',:)
heading  := building, $(if $(NVCC),two to six minutes,one to three minutes) on two cores (V=1 shows the commands):

# What a command has begun to write when it fails is removed, so that it is not taken for made the next time.
.DELETE_ON_ERROR:
.PHONY: all help install uninstall dist quickstart setup libraries test recipes check-recipes ptxas bench fuzz check check-transformers clean FORCE
all: $(PROGRAMS)
	@echo "build: $(HALVES), $$(scripts/setup.sh --versions)$(if $(MPI_H),$(comma) MPI) · $(CXX) $$($(CXX) -dumpversion) $(OPT) $(MARCH) · ./$(BUILD)"

$(PROGRAMS): %: $(BUILD)/%
	@ln -sf $< $@

$(BUILD)/train_gpt: $(BUILD)/train_gpt.o $(KERNELS)
$(BUILD)/infer_gpt: $(BUILD)/infer_gpt.o $(KERNELS)
$(BUILD)/tokenize:  $(BUILD)/data/tokenize.o
$(BUILD)/infer_gpt: LDLIBS += $(if $(EDIT_H),-ledit)
$(BUILD)/infer_gpt.o: CXXFLAGS += $(if $(EDIT_H),-DGPT_LIBEDIT)
$(BUILD)/austen:    $(BUILD)/data/austen.o
$(BUILD)/test_gpt:  $(TESTS) $(KERNELS)
$(BUILD)/test_ops:  $(patsubst %,$(BUILD)/test/%.o,main $(addprefix test_,adamw attention choose device gradients_ops matmul matmul_hopper muon ops random tile_work)) $(KERNELS)
$(BUILD)/bench_ops: $(BUILD)/test/bench_ops.o $(BUILD)/test/attention_variants.o $(KERNELS)
$(BUILD)/bench_tokenizer: $(BUILD)/test/bench_tokenizer.o
$(BUILD)/test_gpt $(BUILD)/test_ops: LDLIBS += $(CATCH3)
$(addprefix $(BUILD)/,$(PROGRAMS) austen test_gpt test_ops bench_ops bench_tokenizer):
	$(call doing,$(CXX) -o $@)
	$(Q)$(CXX) $(CXXFLAGS) $^ $(LDFLAGS) $(LDLIBS) -o $@

# The library refers to its own functions, even where a program has an inline function of the same name (-Bsymbolic).
ifneq ($(CPU_LEVEL),)
$(BUILD)/libgpt_kernels.so: $(OBJECTS)
	$(call doing,$(CXX) -o $@)
	$(Q)$(CXX) $(CXXFLAGS) -shared -Wl,-Bsymbolic -Wl,-soname,$(@F) $^ $(LDFLAGS) $(LDLIBS) -Wl,-rpath,'$$ORIGIN/../..:$$ORIGIN/../../..' -o $@
endif
ifneq ($(LEVELS),)
LDLIBS   += -Wl,-rpath,'$$ORIGIN'
$(BUILD)/glibc-hwcaps/x86-64-%/libgpt_kernels.so: FORCE
	@$(MAKE) --no-print-directory $(if $(Q),-s) BUILD=$(@D) CPU_LEVEL=$* heading='building the kernels for x86-64-$*:' $@
endif

# The lines of ptxas about each kernel go to a file beside the object. Everything else that nvcc says is shown.
ifneq ($(NVCC),)
define compile_cuda
	@mkdir -p $(@D)
	$(call doing,$(notdir $(NVCC)) $<)
	$(Q)$(NVCC) -ccbin $(NVCC_CXX) $(NVFLAGS) -c $< -o $@ 2> $(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }
	@scripts/ptxas.sh --others $(@:.o=.ptxas) >&2
endef
$(BUILD)/kernels/%.o: kernels/%.cu | libraries
	$(compile_cuda)
$(BUILD)/test/%.o: test/%.cu | libraries
	$(compile_cuda)
endif
$(BUILD)/%.o: %.cu | libraries
	@mkdir -p $(@D)
	$(call doing,$(CXX) $<)
	$(Q)$(CXX) -x c++ $(CXXFLAGS) -c $< -o $@
$(BUILD)/%.o: %.cpp | libraries
	@mkdir -p $(@D)
	$(call doing,$(CXX) $<)
	$(Q)$(CXX) $(CXXFLAGS) -c $< -o $@

# Only the programs print the commit. This file changes when the commit does, so that a commit rebuilds them and nothing else.
$(BUILD)/commit: FORCE
	@mkdir -p $(BUILD); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/train_gpt.o $(BUILD)/infer_gpt.o $(BUILD)/data/tokenize.o: $(BUILD)/commit
$(BUILD)/train_gpt.o $(BUILD)/infer_gpt.o $(BUILD)/data/tokenize.o: CXXFLAGS += -DGPT_COMMIT='"$(COMMIT)"'

ifneq ($(MPI_H),)
$(BUILD)/kernels/collective.o: CXXFLAGS += -DGPT_MPI -idirafter $(dir $(MPI_H))
endif
ifeq ($(ONEDNN),0)
$(BUILD)/kernels/matmul.o: CXXFLAGS += -DGPT_NO_ONEDNN
endif

# No multiplication is fused with an addition in AdamW, so that an update has the same bits on every CPU and GPU. It only moves memory.
$(BUILD)/kernels/adamw.o: CXXFLAGS += -ffp-contract=off
$(BUILD)/kernels/adamw.o: NVFLAGS  += -fmad=false

$(BUILD)/kernels/attention.o $(BUILD)/kernels/matmul_hopper.o $(BUILD)/test/attention_variants.o: HOPPER = 1

# What the two programs do beside calling kernels takes no longer at these levels than at -O3, and they compile faster: in 51 s in
# place of 92, and 53 in place of 77, on an AMD EPYC (Zen 3, 2026-11-28). At -O1 infer_gpt's classifiers (--probe) would take twice as long.
$(BUILD)/train_gpt.o: OPT = -O1
$(BUILD)/infer_gpt.o: OPT = -O2
# At -Og three files of tests compiled in 0.65 to 0.87 of the time that -O1 takes, and tests ran as fast within a fifth (Zen 3, 2026-11-28).
$(BUILD)/test/%.o: OPT = -Og
$(BUILD)/test/bench_ops.o $(BUILD)/test/bench_tokenizer.o $(BUILD)/test/attention_variants.o: OPT = -O3

help:
	@sed -n '/^# make /,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# Man pages and completion are made from the list of options that a program prints itself. Kernels that are a library of their
# own and libraries in build-deps are installed too, and with BUNDLE=1 all libraries but those of glibc.
PREFIX    ?= /usr/local
ROOT       = $(DESTDIR)$(PREFIX)
COMPLETION = share/bash-completion/completions
GLIBC     := /(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so
bundled   := $(if $(filter 0,$(BUNDLE)),grep /build-deps/,grep -vE 'libgpt_kernels|$(GLIBC)')
$(BUILD)/man/%.1: docs/%.1 scripts/manual.sh $(BUILD)/%
	@mkdir -p $(@D)
	@scripts/manual.sh man $(BUILD)/$* > $@
$(BUILD)/completion/%: scripts/manual.sh $(BUILD)/%
	@mkdir -p $(@D)
	@scripts/manual.sh bash $(BUILD)/$* > $@
install: $(foreach p,$(PROGRAMS),$(BUILD)/$p $(BUILD)/man/$p.1 $(BUILD)/completion/$p)
	@install -d '$(ROOT)/bin' '$(ROOT)/share/man/man1' '$(ROOT)/$(COMPLETION)'
	@install $(PROGRAMS:%=$(BUILD)/%) '$(ROOT)/bin'
	@install -m 644 $(PROGRAMS:%=$(BUILD)/man/%.1) '$(ROOT)/share/man/man1'
	@install -m 644 $(PROGRAMS:%=$(BUILD)/completion/%) '$(ROOT)/$(COMPLETION)'
	@for level in $(LEVELS:%=glibc-hwcaps/x86-64-%); do \
	    install -D -m 644 -t "$(ROOT)/lib/gpt.cu/$$level" $(BUILD)/$$level/libgpt_kernels.so; done
	@ldd $(PROGRAMS:%=$(BUILD)/%) | awk '$$2 == "=>" && $$3 ~ "^/" {print $$3}' | sort -u | $(bundled) | tr '\n' '\0' | \
	    xargs -0 -r install -D -m 644 -t '$(ROOT)/lib/gpt.cu'
	@echo "installed $(PROGRAMS) in $(ROOT)/bin, with man pages and completion for bash"
uninstall:
	@rm -f $(foreach p,$(PROGRAMS),'$(ROOT)/bin/$p' '$(ROOT)/share/man/man1/$p.1' '$(ROOT)/$(COMPLETION)/$p')
	@rm -rf '$(ROOT)/lib/gpt.cu'

dist: setup
	@BUILD=$(BUILD)-dist CUDA=$(if $(NVCC),1,0) scripts/dist.sh

libraries:
	@scripts/setup.sh --check
setup:
	@scripts/setup.sh
quickstart: setup
	@$(MAKE) --no-print-directory -j$$(nproc) all $(BUILD)/austen
	@BUILD=$(BUILD) scripts/quickstart.sh

# The programs are built because some tests run them. With ONEDNN=0 and no GPU, only tests that multiply nothing can run. With
# two threads in each process, the tests also run the loops that threads share.
WITHOUT_PRODUCTS := [shared],[tokenizer],[presets],[cli],[data],[plot],[comm]
test: setup
	@$(MAKE) --no-print-directory -j$$(nproc) $(addprefix $(BUILD)/,$(PROGRAMS) austen bench_ops test_gpt)
	@$(if $(NVCC),scripts/ptxas.sh --spills $(PTXAS))
ifneq ($(ARGS),)
	GPT_BUILD=$(BUILD) $(BUILD)/test_gpt $(if $(CATCH3),,-w NoTests) $(ARGS)
else
	GPT_BUILD=$(BUILD) OMP_NUM_THREADS=2 scripts/test_parallel.sh $(BUILD)/test_gpt '$(or $(if $(filter 0,$(ONEDNN)),$(if $(GPUS),,$(WITHOUT_PRODUCTS))),~[.])'
	@$(if $(NVCC),$(MAKE) --no-print-directory -j$$(nproc) test-cuda,echo "skipped: no nvcc, so the GPU half was neither built nor tested")
endif

# This needs no GPU. The emulator is tested first, and then runs our own binary with every access checked.
ifneq ($(wildcard $(CUDA_HOME)/include/cuda_runtime_api.h),)
include test/emulator/emulator.mk
test-cuda: emulator-test
	@$(MAKE) --no-print-directory -j$$(nproc) emulator $(addprefix $(BUILD)/,test_gpt bench_ops train_gpt infer_gpt)
	GPT_BUILD=$(BUILD) scripts/test_cuda.sh
endif

recipes: all
	@BUILD=$(BUILD) scripts/recipes.sh
check-recipes: all $(BUILD)/austen
	@BUILD=$(BUILD) scripts/recipes.sh --check

ptxas: $(KERNELS)
	@scripts/ptxas.sh $(PTXAS)

PYTHON ?= python3
# Timing the tokenizer needs no kernels.
BENCHED := $(if $(filter tokenize,$(firstword $(ARGS))),tokenize,$(PROGRAMS) bench_ops) austen bench_tokenizer
bench: $(addprefix $(BUILD)/,$(BENCHED)) $(if $(NVCC),$(if $(filter cuda,$(firstword $(ARGS))),emulator) \
       $(if $(filter-out emulator,$(firstword $(ARGS))),,$(EMU_OUT)/bench))
	@BUILD=$(BUILD) PYTHON=$(PYTHON) TOKENIZER=$(TOKENIZER) scripts/bench.sh $(ARGS)

# Fuzz targets need libFuzzer, which comes with clang, and no kernels. Kernels' headers include omp.h: clang has its own only
# where libomp is installed, and g++ always has one.
FUZZ_CXX ?= clang++
FUZZFLAGS := -std=c++17 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wall -Wextra -Wno-unknown-pragmas \
             -I. -idirafter $(shell $(CXX) -print-file-name=include)
FUZZLIBS  := -lfmt -lutf8proc -lzstd -lz -lgomp
ifneq ($(DEPS),)
FUZZFLAGS += -isystem $(DEPS)/include
FUZZLIBS  += -L$(DEPS)/$(DEPS_LIB) -Wl,-rpath,$(abspath $(DEPS)/$(DEPS_LIB))
endif
FUZZERS  := $(patsubst test/fuzz/%.cpp,$(BUILD)/fuzz/%,$(wildcard test/fuzz/fuzz_*.cpp))
$(BUILD)/fuzz/%.o: test/fuzz/%.cpp
	@mkdir -p $(@D)
	$(FUZZ_CXX) $(FUZZFLAGS) -MMD -MP -c $< -o $@
$(FUZZERS): %: %.o
	$(FUZZ_CXX) $(FUZZFLAGS) $< $(FUZZLIBS) -o $@
.SECONDARY: $(FUZZERS:=.o)
ifneq ($(filter fuzz,$(MAKECMDGOALS)),)
LIBFUZZER := $(wildcard $(shell $(FUZZ_CXX) -print-resource-dir 2>/dev/null)/lib/*/libclang_rt.fuzzer*.a)
endif
fuzz: $(if $(LIBFUZZER),$(FUZZERS))
	@$(if $(LIBFUZZER),BUILD=$(BUILD) scripts/fuzz.sh,echo "skipped: fuzz targets need $(FUZZ_CXX) with libFuzzer (apt-get install clang)")

check:
	@scripts/check.sh

check-transformers: all
	@GPT_BUILD=$(BUILD) $(PYTHON) test/check_transformers.py

clean:
	rm -rf $(BUILD) $(addprefix build-,check check.log dist portable clang g++-11 aarch64) $(PROGRAMS)

-include $(shell find $(BUILD) -name '*.d' -type f 2>/dev/null)
