# make                build train_gpt, infer_gpt and tokenize
# make quickstart     from nothing to a small trained model that writes prose: set up, build, prepare text, train, sample
# make test           every test this machine can run; make test ARGS='layernorm*' runs some
# make bench          time the ops and whole programs on realistic shapes
# make check          warnings as errors, address and undefined-behaviour sanitizers, formatting, layering
#
# PORTABLE=1 builds for any x86-64 (or any CPU of this architecture) instead of this machine's own instruction set.

CXX      ?= g++
BUILD    ?= build
PORTABLE ?= 0
OPT      ?= -O3
COMMIT   := $(shell git describe --always --dirty --abbrev=7 2>/dev/null || echo release)
VERSION  := 0.1

MARCH    := $(if $(filter 0,$(PORTABLE)),-march=native,)
CXXFLAGS += -std=c++17 $(OPT) $(MARCH) -fopenmp -fno-math-errno -ffp-contract=fast -Wall -Wextra -Wno-psabi -I. \
            -DOMPI_SKIP_MPICXX -MMD -MP
LDLIBS   += -ldnnl -lfmt -lutf8proc -lzstd -lz -fopenmp -lpthread

KERNELS  := $(patsubst %.cu,$(BUILD)/%.o,$(wildcard kernels/*.cu))
TESTS    := $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard test/test_*.cpp) test/main.cpp)
PROGRAMS := train_gpt infer_gpt tokenize

.PHONY: all quickstart setup test bench check format clean
all: $(PROGRAMS)
	@echo "build: cpu half, $$(scripts/setup.sh --versions), $(CXX) $$($(CXX) -dumpversion) · $(OPT) $(MARCH) · ./$(BUILD)"

$(PROGRAMS): %: $(BUILD)/%
	@ln -sf $< $@

$(BUILD)/train_gpt: $(BUILD)/train_gpt.o $(KERNELS)
$(BUILD)/infer_gpt: $(BUILD)/infer_gpt.o $(KERNELS)
$(BUILD)/tokenize:  $(BUILD)/data/tokenize.o
$(BUILD)/austen:    $(BUILD)/data/austen.o
$(BUILD)/test_gpt:  $(TESTS) $(KERNELS)
$(BUILD)/bench_ops: $(BUILD)/test/bench_ops.o $(KERNELS)
$(addprefix $(BUILD)/,train_gpt infer_gpt tokenize austen test_gpt bench_ops):
	$(CXX) $(CXXFLAGS) $^ $(LDFLAGS) $(LDLIBS) -o $@

$(BUILD)/%.o: %.cu $(BUILD)/ready
	@mkdir -p $(@D)
	$(CXX) -x c++ $(CXXFLAGS) -c $< -o $@
$(BUILD)/%.o: %.cpp $(BUILD)/ready
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -c $< -o $@

# The version goes into one small file, rewritten only when it changes, so a commit does not rebuild the house.
$(BUILD)/ready: | check-libraries
	@mkdir -p $(BUILD) && touch $@
.PHONY: check-libraries
check-libraries:
	@scripts/setup.sh --check
