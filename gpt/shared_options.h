// shared_options.h - the options that train_gpt and infer_gpt share, and the names that other programs give to options
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "gpt/cli.h"
#include "kernels/device.h"

// ---- the machine ----------------------------------------------------------------------------------------------------

struct MachineOptions {
    Auto<DType> dtype;
    Auto<Machine> device;
    Auto<int> threads, cpu;  // cpu: a level of x86-64, as in kernels/host.h
    bool tf32 = false, no_early_launch = false, sync = false;
    AttentionKernels attention = AttentionKernels::automatic;
};

// The dtypes that have a mark in the table of kernels/tensor.h, by name.
inline Flags::Table<DType> dtypes_that(bool DTypeRow::*mark) {
    Flags::Table<DType> table;
    for (const DTypeRow& row : dtype_rows)
        if (row.*mark) table.emplace_back(row.name, row.dtype);
    return table;
}

// The values of --attention.
inline Flags::Table<AttentionKernels> attention_kernels() {
    return {
        {"auto", AttentionKernels::automatic}, {"mma", AttentionKernels::mma}, {"hopper", AttentionKernels::hopper}};
}

inline void list_machine_options(Flags& f, MachineOptions& o) {
    f.group("machine");
    f.choose("--dtype", o.dtype, dtypes_that(&DTypeRow::computes),
             "dtype of weights and activations; auto: bf16 on a GPU and on CPUs with instructions for it, else fp32");
    f.choose("--device", o.device, Flags::Table<Machine>{{"cpu", Machine::cpu}, {"cuda", Machine::cuda}},
             "where to run; auto: on the GPU if there is a usable one, else on the CPU");
    f.add("--threads", o.threads, at_least(1).at_most(most_cpu_threads),
          "CPU threads; auto: one per core that this process may use, by its affinity mask and by the quota of its "
          "container, or its share of those cores");
    f.choose("--cpu", o.cpu, Flags::Table<int>{{"v2", 2}, {"v3", 3}, {"v4", 4}},
             "level of x86-64 whose instructions run: v2 has SSE4, v3 AVX2, v4 AVX-512; a build without PORTABLE=1 has "
             "only the machine's own; auto: the highest that the CPU has");
    f.add(
        "--tf32", o.tf32,
        "let products in fp32 on a GPU round their operands to TF32, whose 11 bits of precision tensor cores multiply; "
        "left out: they are exact to fp32");
    f.choose("--attention", o.attention, attention_kernels(),
             "which kernels compute attention in bf16 on a GPU: mma runs on every one; hopper needs compute capability "
             "9.0 (H100, H200), and heads wider than 32; auto: hopper where it runs, after its first results were "
             "compared with those of mma, and mma elsewhere");
    f.add("--no-early-launch", o.no_early_launch,
          "let each kernel of a generated token begin when the one before it has ended; left out: on GPUs like the "
          "H100 and newer it begins earlier and loads its weights meanwhile (programmatic dependent launch)");
    f.add("--sync", o.sync,
          "wait for the GPU after every kernel, so that an error names the op in which it happened; slower");
}

// ---- the model ------------------------------------------------------------------------------------------------------

// The options about a model's facts and files that both programs have. `otherwise` says what decides --activation.
inline void list_model_options(Flags& f, Auto<std::string>& activation, bool& ignore_extra_tensors,
                               const std::string& otherwise) {
    f.add("--activation", activation,
          "form of GELU: gelu is the erf form, gelu_new and gelu_fast are the tanh form; auto: what " + otherwise +
              " says",
          "NAME");
    f.add(
        "--ignore-extra-tensors", ignore_extra_tensors,
        "leave out the tensors of the model folder that are no weights of the model, such as the head of a classifier, "
        "instead of refusing the folder");
}

// ---- names of other programs ----------------------------------------------------------------------------------------

// What nanoGPT, llm.c, transformers and others call our options, and answers for what we do not have. Each program
// leaves out the names of options that it lacks.
inline void list_foreign_names(Flags& f) {
    // clang-format off
    static const std::pair<const char*, std::vector<const char*>> table[] = {
        {"--learning-rate",       {"--lr", "--max-lr"}},
        {"--final-learning-rate", {"--min-lr"}},
        {"--warmup-steps",        {"--warmup", "--warmup-iters"}},
        {"--schedule",            {"--lr-scheduler-type", "--lr-decay-style"}},
        {"--batch",               {"--batch-size", "--micro-batch-size", "--per-device-train-batch-size", "-b"}},
        {"--tokens-per-step",     {"--total-batch-size", "--global-batch-size"}},
        {"--accumulate",          {"--gradient-accumulation-steps", "--grad-accum"}},
        {"--context",             {"--block-size", "--seq-len", "--seq-length", "--sequence-length", "--context-length",
                                   "--max-seq-len", "--n-ctx"}},
        {"--steps",               {"--max-iters", "--max-steps", "--iters", "--iterations", "--num-iterations"}},
        {"--layers",              {"--n-layer", "--n-layers", "--num-layers", "--num-hidden-layers", "--depth"}},
        {"--width",               {"--n-embd", "--hidden-size", "--d-model", "--dim"}},
        {"--heads",               {"--n-head", "--n-heads", "--num-heads", "--num-attention-heads"}},
        {"--vocab",               {"--vocab-size"}},
        {"--train-data",          {"--data", "--dataset", "--train-file", "--input"}},
        {"--val-data",            {"--val", "--validation-file"}},
        {"--out",                 {"--out-dir", "--output", "--output-dir", "-o"}},
        {"--clip",                {"--grad-clip", "--max-grad-norm"}},
        {"--weight-decay",        {"--wd"}},
        {"--eval-every",          {"--eval-interval", "--eval-steps"}},
        {"--eval-batches",        {"--eval-iters"}},
        {"--save-every",          {"--save-interval"}},
        {"--log-every",           {"--log-interval", "--logging-steps"}},
        {"--model",               {"--init-from", "--model-name-or-path", "-m"}},
        {"--dtype",               {"--precision", "--bf16"}},
        {"--recompute",           {"--gradient-checkpointing"}},
        {"--tokens",              {"--max-new-tokens", "--max-tokens", "--n-predict", "-n"}},
        {"--samples",             {"--num-samples"}},
        {"--prompt",              {"--start", "-p"}},
        {"--prompt-file",         {"--file", "-f"}},
        {"--temperature",         {"--temp"}},
        {"--stop",                {"--stop-sequence", "--reverse-prompt"}},
        {"the length of a run is --steps; auto is one epoch of the training data", {"--epochs", "--num-train-epochs"}},
        {"there is nothing to compile; leave it out", {"--compile"}},
        {"there is none; --temperature, --top-k and --top-p shape the choice of tokens", {"--repetition-penalty", "--min-p"}},
    };
    // clang-format on
    for (const auto& [answer, names] : table)
        for (const char* theirs : names) f.elsewhere(theirs, answer);
}
