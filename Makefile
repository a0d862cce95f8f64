# make                build train_gpt, infer_gpt and tokenize
# make quickstart     from nothing to a small trained model that writes prose: set up, build, prepare text, train, sample
# make test           every test this machine can run; make test ARGS='layernorm*' runs some
# make bench          time the ops and whole programs on realistic shapes
# make check          warnings as errors, address and undefined-behaviour sanitizers, layering
#
# PORTABLE=1 builds for any CPU of this architecture instead of for this machine's own instruction set.

CXX      ?= g++
BUILD    ?= build
PORTABLE ?= 0
OPT      ?= -O3
MARCH    := $(if $(filter 0,$(PORTABLE)),-march=native)
CXXFLAGS += -std=c++17 $(OPT) $(MARCH) -fopenmp -fno-math-errno -ffp-contract=fast -Wall -Wextra -Wno-psabi -I. -MMD -MP
LDLIBS   += -ldnnl -lfmt -lutf8proc -lzstd -lz -fopenmp -lpthread
CATCH3   := $(if $(wildcard /usr/include/catch2/catch_all.hpp /usr/local/include/catch2/catch_all.hpp),-lCatch2)
COMMIT   := $(shell git describe --always --dirty --abbrev=7 2>/dev/null || echo release)

KERNELS  := $(patsubst %.cu,$(BUILD)/%.o,$(wildcard kernels/*.cu))
TESTS    := $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard test/test_*.cpp) test/main.cpp)
PROGRAMS := train_gpt infer_gpt tokenize

.PHONY: all quickstart setup libraries test bench check clean FORCE
all: $(PROGRAMS)
	@echo "build: cpu half, $$(scripts/setup.sh --versions) · $(CXX) $$($(CXX) -dumpversion) $(OPT) $(MARCH) · ./$(BUILD)"

$(PROGRAMS): %: $(BUILD)/%
	@ln -sf $< $@

$(BUILD)/train_gpt: $(BUILD)/train_gpt.o $(KERNELS)
$(BUILD)/infer_gpt: $(BUILD)/infer_gpt.o $(KERNELS)
$(BUILD)/tokenize:  $(BUILD)/data/tokenize.o
$(BUILD)/austen:    $(BUILD)/data/austen.o
$(BUILD)/test_gpt:  $(TESTS) $(KERNELS)
$(BUILD)/bench_ops: $(BUILD)/test/bench_ops.o $(KERNELS)
$(BUILD)/test_gpt:  LDLIBS += $(CATCH3)
$(addprefix $(BUILD)/,$(PROGRAMS) austen test_gpt bench_ops):
	$(CXX) $(CXXFLAGS) $^ $(LDFLAGS) $(LDLIBS) -o $@

$(BUILD)/%.o: %.cu | libraries
	@mkdir -p $(@D)
	$(CXX) -x c++ $(CXXFLAGS) -c $< -o $@
$(BUILD)/%.o: %.cpp | libraries
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -c $< -o $@

# Only the programs print the commit; the file changes when it does, so that a commit rebuilds those and nothing else.
$(BUILD)/commit: FORCE
	@mkdir -p $(BUILD); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/train_gpt.o $(BUILD)/infer_gpt.o $(BUILD)/data/tokenize.o: $(BUILD)/commit
$(BUILD)/train_gpt.o $(BUILD)/infer_gpt.o $(BUILD)/data/tokenize.o: CXXFLAGS += -DGPT_COMMIT='"$(COMMIT)"'

# Tests are compiled faster than they would run.
$(BUILD)/test/%.o: OPT = -O1
$(BUILD)/test/bench_ops.o: OPT = -O3

libraries:
	@scripts/setup.sh --check
setup:
	@scripts/setup.sh
quickstart: setup
	@$(MAKE) --no-print-directory all $(BUILD)/austen
	@BUILD=$(BUILD) scripts/quickstart.sh

# make test ARGS='layernorm*' runs the tests of that name; the programs are built because tests run them.
test: setup
	@$(MAKE) --no-print-directory -j$$(nproc) $(addprefix $(BUILD)/,$(PROGRAMS) austen test_gpt)
	GPT_BUILD=$(BUILD) $(BUILD)/test_gpt $(ARGS)

bench: $(addprefix $(BUILD)/,$(PROGRAMS) bench_ops)
	@BUILD=$(BUILD) scripts/bench.sh $(ARGS)

check:
	@scripts/check.sh

clean:
	rm -rf $(BUILD) $(BUILD)-check $(PROGRAMS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
