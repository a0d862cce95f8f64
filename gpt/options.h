// options.h - the options of train_gpt and of infer_gpt, one entry each
//
// An Auto is decided by the model or the machine unless the user gives it. resolve() and resolve_steps() decide, so
// that run.json and the printed command hold the values that were used. Settings of a module are bound to its own
// struct.
#pragma once
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "gpt/cli.h"
#include "gpt/generate.h"
#include "gpt/optimizers.h"
#include "gpt/presets.h"
#include "gpt/resume.h"
#include "gpt/scaling.h"
#include "kernels/device.h"
#include "kernels/host.h"

// ---- names of other programs ----------------------------------------------------------------------------------------

// What nanoGPT, llm.c, transformers and others call our options, and answers for what we do not have.
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

// ---- the machine: the same for both programs -----------------------------------------------------------------------

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
    f.add("--threads", o.threads, at_least(1), "CPU threads; auto: one per core, or this process's share of the cores");
    f.choose("--cpu", o.cpu, Flags::Table<int>{{"v2", 2}, {"v3", 3}, {"v4", 4}},
             "level of x86-64 whose instructions run: v2 has SSE4, v3 AVX2, v4 AVX-512; a build without PORTABLE=1 has "
             "only the machine's own; auto: the highest that the CPU has");
    f.add(
        "--tf32", o.tf32,
        "let products in fp32 on a GPU round their operands to TF32, whose 11 bits of precision tensor cores multiply; "
        "left out: they are exact to fp32");
    f.choose("--attention", o.attention, attention_kernels(),
             "which kernels compute attention in bf16 on a GPU: mma runs on every one; hopper is for the H100 and its "
             "kin, and heads wider than 32; auto: hopper where it runs, after its first results were "
             "compared with those of mma, and mma elsewhere");
    f.add(
        "--no-early-launch", o.no_early_launch,
        "let each kernel of a generated token begin when the one before it has ended, on GPUs like the H100 and newer; "
        "left out: it begins earlier, and loads its weights meanwhile");
    f.add("--sync", o.sync,
          "wait for the GPU after every kernel, so that an error names the op in which it happened; slower");
}

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

// The threads of a process that shares its machine with others. A launcher may have bound it to some of the cores. Open
// MPI binds each of two processes to one core, however many there are.
inline int threads_beside(int neighbours) {
    if (neighbours <= 1) return 0;
    const int all = int(sysconf(_SC_NPROCESSORS_ONLN)), own = omp_get_num_procs(),
              share = std::max(1, all / neighbours);
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

// Reads a list of whole numbers from 0 to below `end`, such as 1,2,3. `what` says what they are.
inline std::vector<int64_t> parse_numbers(const std::string& option, const std::string& list, int64_t end,
                                          const char* what) {
    std::vector<int64_t> numbers;
    for (size_t at = 0; at <= list.size();) {
        const size_t comma       = std::min(list.find(',', at), list.size());
        const std::string word   = list.substr(at, comma - at);
        int64_t n                = -1;
        const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), n);
        CHECK(error == std::errc() && stop == word.data() + word.size() && n >= 0 && n < end,
              "{}: '{}' is no {} (0 to {}); expected a list such as 1,2,3", option, word, what, end - 1);
        numbers.push_back(n);
        at = comma + 1;
    }
    return numbers;
}

// ---- train_gpt -----------------------------------------------------------------------------------------------------

enum class Objective : uint8_t { likelihood, dpo };

struct Options {
    std::string model = "quickstart", hellaswag, prompt;
    Auto<std::string> activation, train_data, val_data, tokenizer, out;
    std::optional<std::string> save_steps;
    Sizes sizes;
    Auto<int64_t> steps, batch, context, accumulate, tokens_per_step, warmup_steps, eval_every, save_every,
        logits_memory;
    Auto<float> learning_rate, final_learning_rate, weight_decay, beta2;
    Schedule schedule;
    OptimizerSettings optimizer;
    ShardLevel shard = ShardLevel::none;
    DType wire       = DType::F32;
    MachineOptions machine;
    Auto<DType> save_dtype;
    Auto<const Card*> gpu;
    Auto<const Link*> link;  // of a plan with --gpu, as world and gpus_per_node
    Auto<int64_t> world;
    int64_t gpus_per_node = 8;
    Recompute recompute   = Recompute::none;
    Objective objective   = Objective::likelihood;
    float dpo_beta        = 0.1f;
    Auto<float> dropout   = 0.f;
    uint64_t seed         = 1337;
    int64_t eval_batches = 20, hellaswag_questions = 0, sample_every = 0, sample_tokens = 100, keep = 2, log_every = 10,
            timeout = 600, check_weights = 0, max_skips = 10;
    bool ignore_extra_tensors = false, document_mask = false, sequences = false, add_tokens = false, resume = false,
         save_async = false, tune = false, graph = false, dry_run = false, list_models = false, trust_data = false;
    std::vector<int64_t> saved_steps;  // the numbers of --save-steps, in order
    std::string program;               // the path by which this program runs from any folder
    EarlierStarts earlier;             // holds what run.json says, with --resume
};

// The values of --shard.
inline Flags::Table<ShardLevel> shard_levels() {
    return {{"none", ShardLevel::none},
            {"optimizer", ShardLevel::optimizer},
            {"gradients", ShardLevel::gradients},
            {"weights", ShardLevel::weights}};
}

// The values of --optimizer.
inline Flags::Table<OptimizerKind> optimizer_names() {
    Flags::Table<OptimizerKind> table;
    for (const OptimizerRow& row : optimizers()) table.emplace_back(row.name, row.kind);
    return table;
}

inline void list_options(Flags& f, Options& o) {
    f.group("model and data");
    f.add("--model", o.model,
          "name of a preset (--list-models shows all), which starts from random weights, or a model folder, whose "
          "weights are trained on",
          "NAME|DIR");
    f.add("--layers", o.sizes.layers, at_least(1).at_most(10000),
          "layers of a model of your own size, whose weights are random; auto: as many as --model has");
    f.add("--width", o.sizes.width, at_least(1).at_most(1 << 20),
          "width of a model of your own size, a multiple of its heads; auto: that of --model");
    f.add("--heads", o.sizes.heads, at_least(1).at_most(1 << 20),
          "attention heads of a model of your own size; auto: as many as --model has");
    f.add(
        "--vocab", o.sizes.vocab, at_least(1).at_most(1 << 28),
        "token ids of a model of your own size; auto: as many as --model has, or what the tokenizer needs, rounded up "
        "to a multiple of 64, if a preset's number does not suit it");
    list_model_options(f, o.activation, o.ignore_extra_tensors, "the preset or config.json");
    f.add("--train-data", o.train_data,
          "pattern of the token shards to train on, in quotes, so that the shell does not expand it; auto: the "
          "quick-start text for --model quickstart; every other model needs this option",
          "'GLOB'");
    f.add(
        "--val-data", o.val_data,
        "pattern of the token shards to evaluate on; auto: the quick-start text for --model quickstart, else there is "
        "no evaluation",
        "'GLOB'");
    f.add("--sequences", o.sequences,
          "the training data is one series of sequences of context + 1 ids, in the order in which they are trained on, "
          "as EleutherAI publishes Pythia's; left out: it is cut into sequences, which are shuffled");
    f.add("--document-mask", o.document_mask,
          "keep attention within each document and count positions from its beginning; a document begins at its "
          "<|endoftext|>; left out: attention crosses documents, but never conversations");
    f.add("--tokenizer", o.tokenizer,
          "tokenizer.json, or vocab.json with merges.txt beside it, for samples, HellaSwag and checkpoints; auto: the "
          "one in the model folder or beside the training data, if there is one",
          "FILE");
    f.add("--add-tokens", o.add_tokens,
          "give the model the tokens that --tokenizer has beyond its own, such as those of a chat template; their rows "
          "begin at the mean of all others");
    f.add("--trust-data", o.trust_data,
          "train although the summary beside the token shards names another tokenizer than the model's");
    f.add("--out", o.out,
          "folder of the run, for the log, the plot and checkpoints; auto: runs/MODEL, with a number when that exists",
          "DIR");
    f.add(
        "--resume", o.resume,
        "continue the run in --out from its newest complete checkpoint; its options hold unless they are given again, "
        "which then holds for the next --resume");
    f.group("batch");
    f.add("--steps", o.steps, at_least(1).at_most(UINT32_MAX),
          "optimizer steps of the whole run; with --resume and another number the learning rate goes on from where it "
          "stands and falls until the new end; auto: those of the preset if it has a number, else one epoch of the "
          "training data");
    f.add("--batch", o.batch, at_least(1).at_most(1 << 20), "sequences in a micro-batch of one process; auto: 4");
    f.add("--context", o.context, at_least(1).at_most(1 << 24),
          "tokens per sequence; a model with random weights gets at least as many positions; auto: the context of the "
          "model");
    f.add("--accumulate", o.accumulate, at_least(1),
          "micro-batches per optimizer step; auto: 1, or without --batch enough for the preset's published tokens per "
          "step");
    f.add("--tokens-per-step", o.tokens_per_step, at_least(1),
          "tokens per optimizer step, instead of --accumulate: a multiple of batch × context × processes; auto: "
          "--accumulate decides");
    f.group("optimizer");
    f.choose("--objective", o.objective,
             Flags::Table<Objective>{{"likelihood", Objective::likelihood}, {"dpo", Objective::dpo}},
             "what is learned: likelihood, to predict the next token; dpo, to prefer the chosen answers of preferences "
             "to the rejected ones (arXiv 2305.18290)");
    f.add("--dpo-beta", o.dpo_beta, more_than(0),
          "weight of a change of log-probabilities in dpo: a larger one keeps the model nearer to where it began");
    f.choose(
        "--shard", o.shard, shard_levels(),
        "what each of several processes keeps of its own slice only, and fetches from the others when it needs more: "
        "the optimizer's state and masters, also the gradients, also the weights (ZeRO 1, 2, 3). With gradients or "
        "weights they travel in every micro-step, so --accumulate 1 moves least, and more micro-steps are added up in "
        "another order than with none");
    f.choose("--wire", o.wire, dtypes_that(&DTypeRow::computes),
             "dtype in which several processes send each other gradients; bf16 halves the bytes, and rounds what each "
             "process adds to a sum");
    f.choose(
        "--offload", o.optimizer.in_host_memory, Flags::Table<bool>{{"none", false}, {"optimizer", true}},
        "keep the optimizer's state and masters in the host's memory instead of a GPU's; the CPU updates them, with "
        "the same bits, while the next forward pass begins, or before it with --graph. It takes 12 bytes a weight off "
        "the GPU, and 8 bytes a weight go over PCIe in each step. With --shard each process does so with its own "
        "slice. none: they stay in the GPU's memory");
    f.choose("--optimizer", o.optimizer.kind, optimizer_names(),
             "adamw updates all weights; muon updates the matrices of the blocks, and adamw all other weights");
    f.add("--muon-learning-rate", o.optimizer.muon_learning_rate, at_least(0),
          "peak learning rate of the matrices that muon updates; it rises and falls like --learning-rate");
    f.add("--muon-momentum", o.optimizer.muon_momentum, at_least(0).below(1),
          "decay of muon's momentum, which is the running sum of gradients");
    f.add("--learning-rate", o.learning_rate, more_than(0),
          "peak learning rate; with --resume, the rate from which a new schedule begins at this step; auto: that "
          "published for the preset, 3e-5 for weights from a model folder, else 6e-4");
    f.add("--warmup-steps", o.warmup_steps, at_least(0),
          "steps in which the learning rate rises linearly to its peak; auto: the number published for the preset, or "
          "the same share of a shorter run; else 2 % of the run");
    f.choose(
        "--schedule", o.schedule.kind, schedule_kinds(),
        "learning rate after warm-up: cosine and linear let it fall until the last step, constant keeps it, and wsd "
        "keeps it and lets it fall linearly in the last fifth of the run");
    f.add("--final-learning-rate", o.final_learning_rate, at_least(0),
          "learning rate of the last step, not used by a constant schedule; auto: the preset's share of the peak, else "
          "a tenth of the peak");
    f.add("--weight-decay", o.weight_decay, at_least(0),
          "decoupled weight decay of matrices and embeddings; auto: that published for the preset, else 0.1");
    f.add("--dropout", o.dropout, at_least(0).below(1),
          "rate at which elements of the embedding, probabilities of attention, and elements of what attention and MLP "
          "add to the residual stream are set to 0 in training; auto: the rates of the model's config.json; 0: none");
    f.add("--beta1", o.optimizer.beta1, at_least(0).below(1),
          "decay of adamw's first moment, the running mean of gradients");
    f.add("--beta2", o.beta2, at_least(0).below(1),
          "decay of adamw's second moment, the running mean of squared gradients; auto: that published for the preset, "
          "else 0.95");
    f.add("--eps", o.optimizer.eps, at_least(0), "adamw's epsilon, added to the square root of the second moment");
    f.add("--clip", o.optimizer.clip, at_least(0),
          "largest norm of the gradients, which are scaled down to it when they are larger; 0: no limit");
    f.add("--stochastic-rounding", o.optimizer.stochastic_rounding,
          "round new bf16 weights up or down at random, so that updates too small for bf16 add up; left out: round to "
          "nearest");
    f.add("--max-skips", o.max_skips, at_least(0),
          "how many steps in a row may be skipped because their loss or gradient norm is not finite; one more ends the "
          "run");
    list_machine_options(f, o.machine);
    f.choose("--save-dtype", o.save_dtype, dtypes_that(&DTypeRow::weights),
             "dtype of the weights in checkpoints; auto: that of the model folder from which training started, else "
             "--dtype");
    f.add("--seed", o.seed, "seed of the initial weights, the order of the data, random rounding and samples");
    f.choose(
        "--recompute", o.recompute,
        Flags::Table<Recompute>{{"none", Recompute::none},
                                {"gelu", Recompute::gelu},
                                {"norm", Recompute::norm},
                                {"block", Recompute::block}},
        "activations that the backward pass computes again, so that they need no memory: none, those after gelu, also "
        "those after norms, or the whole block. No bit of a loss changes, with one exception: on a GPU in bf16, gelu "
        "and norm round what the tanh form reads, and none and block do not, so the last bits of these pairs differ");
    f.add(
        "--logits-memory", o.logits_memory, at_least(1).at_most(1 << 20),
        "MiB of logits that the head computes at a time, or those of 64 tokens if that is more; the order of sums, and "
        "so the last bits of gradients, depend on it; auto: 64 on a CPU, on a GPU 1024 or as much less as its memory "
        "demands");
    f.add("--tune", o.tune,
          "time the algorithms that cuBLASLt has for each product, in the first step, and keep the fastest in "
          "products.json of the run's folder; a run that finds this file uses it; for one GPU");
    f.add("--graph", o.graph, "record a step as a CUDA graph and replay it with one launch; for GPUs only");
    f.group("while training");
    f.add("--eval-every", o.eval_every, at_least(0), "steps between evaluations; 0: never; auto: a tenth of the run");
    f.add("--eval-batches", o.eval_batches, at_least(1),
          "batches in an evaluation, or fewer when the validation data has no more");
    f.add("--hellaswag", o.hellaswag,
          "HellaSwag's .jsonl, which each evaluation scores as lm-evaluation-harness does; left out: it is not scored",
          "FILE");
    f.add("--hellaswag-questions", o.hellaswag_questions, at_least(0),
          "how many questions of --hellaswag to score, from the first; 0: all, 10,042 in the published file");
    f.add("--sample-every", o.sample_every, at_least(0), "steps between samples of text; 0: never");
    f.add("--sample-tokens", o.sample_tokens, at_least(1), "tokens in a sample");
    f.add("--prompt", o.prompt, any_text(), "text with which each sample begins; left out: <|endoftext|>");
    f.add(
        "--save-every", o.save_every, at_least(0),
        "steps between checkpoints, besides the one at the end of the run; 0: only when a signal stops the run; auto: "
        "as many as between evaluations");
    f.add(
        "--save-steps", o.save_steps,
        "steps after which a checkpoint is saved that --keep does not remove, besides those of --save-every; 0 is the "
        "beginning of the run; left out: there are none",
        "0,1,2,4");
    f.add("--keep", o.keep, at_least(0),
          "how many checkpoints to keep, counted from the newest, besides those of --save-steps; 0: all");
    f.add("--save-async", o.save_async,
          "save while training goes on: copy what a checkpoint holds in the host's memory, and let a thread write "
          "it; the files are the same; left out: training waits for them");
    f.add("--timeout", o.timeout, at_least(0).at_most(86400),
          "with several processes: seconds after which one that no longer answers, or a step in which none gets on, "
          "ends all of them; 0: never");
    f.add("--check-weights", o.check_weights, at_least(0),
          "with several processes: steps between comparisons of their weights, which name a process that differs; 0: "
          "only when a checkpoint is saved");
    f.add("--log-every", o.log_every, at_least(0),
          "steps between lines on the terminal; 0: only the first step and the last; log.jsonl has every step");
    f.group("instead of training");
    f.add("--dry-run", o.dry_run, "print parameters, memory by group, tokens and FLOPs; allocate and train nothing");
    Flags::Table<const Card*> gpus;
    for (const Card& card : cards) gpus.emplace_back(card.name, &card);
    f.choose(
        "--gpu", o.gpu, gpus,
        "plan for this GPU, which the machine need not have, and predict the time of a step on it; with --dry-run; "
        "auto: plan for this machine");
    f.add("--world", o.world, at_least(1).at_most(1 << 20),
          "plan for this many GPUs of the kind that --gpu names; auto: as many as there are processes");
    Flags::Table<const Link*> networks;
    for (const Link& link : links) networks.emplace_back(link.name, &link);
    f.choose("--link", o.link, networks,
             "with --world: what connects servers, in Gb/s of all adapters of a server together; nvlink connects all "
             "GPUs; auto: nvlink for a single server, else 400Gb");
    f.add("--gpus-per-node", o.gpus_per_node, at_least(1).at_most(1024), "with --world: GPUs of a server");
    f.add("--list-models", o.list_models, "print the table of presets");
    list_foreign_names(f);
    f.apart({"--accumulate", "--tokens-per-step"});
    f.apart({"--graph", "--sync"});
    f.apart({"--sequences", "--document-mask"});
    f.apart({"--tune", "--dry-run"});
    f.only_with("--gpu", {"--dry-run"});
    f.only_with("--add-tokens", {"--tokenizer"});
    f.only_with("--dpo-beta", {"--objective dpo"});
    f.only_with("--world", {"--gpu"});
    f.only_with("--link", {"--world"});
    f.only_with("--gpus-per-node", {"--world"});
}

// Returns false after printing --help or --version.
inline bool parse_options(Options& o, Flags& flags, int argc, char** argv, int world) {
    o.program                            = program_path(argv[0]);
    const std::vector<std::string> words = with_resumed_options({argv, argv + argc}, world, o.earlier);
    std::vector<const char*> pointers;
    for (const std::string& w : words) pointers.push_back(w.c_str());
    if (!flags.parse(int(pointers.size()), pointers.data())) return false;

    if (!o.machine.cpu.is_auto()) host::use_cpu_level(o.machine.cpu, argv);
    const bool on_cpu = !o.machine.device.is_auto() && o.machine.device == Machine::cpu;
    CHECK(!o.graph || !on_cpu, "--graph: CUDA graphs are for --device cuda, not for the CPU");
    CHECK(!o.graph || o.objective == Objective::likelihood,
          "--graph: a step of --objective dpo weighs its pairs on the host, so it cannot be recorded");
    CHECK(o.objective != Objective::dpo || (!o.dropout.is_auto() && o.dropout == 0),
          "--dropout: --objective dpo compares log-probabilities with those of its reference, which knows no dropout; "
          "leave --dropout out");
    CHECK(!o.resume || !o.out.is_auto(), "--resume needs --out, the folder of the run to continue");
    o.optimizer.seed = o.seed;
    if (o.save_steps) o.saved_steps = parse_numbers("--save-steps", *o.save_steps, int64_t(UINT32_MAX) + 1, "step");
    std::sort(o.saved_steps.begin(), o.saved_steps.end());
    return true;
}

// The recipe of a preset, or the one for a model folder. Trained weights start at a twentieth of the rate for random
// ones, because the peak of a pretraining run would undo some of what they have learnt.
inline Recipe recipe_for(const Preset* preset, bool trained_weights) {
    if (preset) return preset->recipe;
    Recipe recipe;
    if (trained_weights) recipe.learning_rate = 3e-5f;
    return recipe;
}

inline int64_t tokens_of_step(const Options& o, int world) { return o.batch * o.context * o.accumulate * world; }

// Decides what depends on the model. What depends on the amount of data is left to resolve_steps().
inline void resolve(Options& o, const Config& c, const Recipe& recipe, int world) {
    const bool batch_given = !o.batch.is_auto();
    o.batch.decide(4);
    o.context.decide(c.context);
    CHECK(o.context <= 1 << 24, "--context {}: out of range", o.context);
    // So that no product of these options overflows.
    constexpr int64_t most_tokens = int64_t(1) << 40;
    CHECK(o.batch * o.context <= most_tokens / world,
          "--batch {} × --context {} × {} processes: expected at most 2^40 tokens per step", o.batch, o.context, world);
    const int64_t micro_batch = o.batch * o.context * world;  // tokens, over all processes
    if (!o.tokens_per_step.is_auto()) {
        const int64_t tokens = o.tokens_per_step, nearest = std::max<int64_t>(1, tokens / micro_batch) * micro_batch;
        int64_t keeps = o.batch;  // the largest batch that the number of tokens is a multiple of; 0: none
        while (keeps > 0 && tokens % (keeps * o.context * world) != 0) keeps--;
        CHECK(keeps == o.batch || !o.resume || o.earlier.gives("--tokens-per-step"),
              "--resume: this run has {} tokens a step, but with --batch {} and --context {} {} a multiple of {}; "
              "{}--tokens-per-step {} goes on with another number",
              tokens, o.batch, o.context, world == 1 ? "one process has" : fmt::format("{} processes have", world),
              micro_batch, keeps ? fmt::format("--batch {} keeps the {}, and ", keeps, tokens) : "", nearest);
        CHECK(tokens % micro_batch == 0, "--tokens-per-step {}: not a multiple of batch × context{} = {}; {} would be",
              tokens,
              world == 1 ? fmt::format(" = {} × {}", o.batch, o.context)
                         : fmt::format(" × processes = {} × {} × {}", o.batch, o.context, world),
              micro_batch, nearest);
        o.accumulate      = tokens / micro_batch;
        o.tokens_per_step = {};  // the printed command says it by --accumulate
    }
    const int64_t published = (recipe.tokens_per_step + micro_batch / 2) / micro_batch;
    o.accumulate.decide(batch_given ? 1 : std::max<int64_t>(1, published));
    CHECK(o.accumulate <= most_tokens / micro_batch,
          "--batch {} × --context {} × --accumulate {}: expected at most 2^40 tokens per step", o.batch, o.context,
          o.accumulate);
    if (recipe.steps) o.steps.decide(recipe.steps);

    o.schedule.learning_rate = o.learning_rate.decide(recipe.learning_rate);
    // Six digits: a tenth of 6e-4 is 6e-05, not 6.0000002e-05.
    const std::string last   = fmt::format("{:.6g}", double(o.learning_rate) * recipe.final_share);
    o.schedule.final_rate    = o.final_learning_rate.decide(std::strtof(last.c_str(), nullptr));
    o.optimizer.weight_decay = o.weight_decay.decide(recipe.weight_decay);
    o.optimizer.beta2        = o.beta2.decide(recipe.beta2);
}

// Decides what depends on the amount of data: the length of the run, and what is a share of it.
inline void resolve_steps(Options& o, const Recipe& recipe, int world, int64_t train_tokens) {
    o.schedule.steps        = o.steps.decide(std::max<int64_t>(1, train_tokens / tokens_of_step(o, world)));
    o.schedule.warmup_steps = o.warmup_steps.decide(recipe.warmup_of(o.steps));
    CHECK(o.warmup_steps <= o.steps, "--warmup-steps {} is more than --steps {}", o.warmup_steps, o.steps);
    CHECK(o.steps <= INT64_MAX / tokens_of_step(o, world), "--steps {} of {} tokens: expected less than 2^63 tokens",
          o.steps, tokens_of_step(o, world));
    const int64_t tenth = std::max<int64_t>(1, o.steps / 10);
    o.eval_every.decide(tenth);
    o.save_every.decide(o.eval_every > 0 ? int64_t(o.eval_every) : tenth);
}

// ---- infer_gpt -----------------------------------------------------------------------------------------------------

struct InferOptions {
    std::string model;
    std::optional<std::string> prompt, prompt_file, ids, score;
    Auto<std::string> activation, tokenizer, chat_template;
    Auto<int64_t> context, stride;
    Auto<SpecialTokens> special_tokens;
    std::vector<std::string> eval;   // the names of benchmarks, each with its file behind it
    std::vector<std::string> probe;  // the files of training and of test texts
    std::vector<std::string> stop, steer;
    std::optional<std::string> out, activations, layers;
    int64_t tokens = 200, samples = 1;
    Sampling sampling{0.8f, 0, 0.95f, 1337};
    MachineOptions machine;
    bool ignore_extra_tensors = false, chat = false, logits = false, lens = false, json = false, stats = false;

    bool prints_json() const { return json || logits; }
};

inline void list_options(Flags& f, InferOptions& o) {
    f.group("model");
    f.add("--model", o.model,
          "model folder, or the folder of a run, which stands for its newest checkpoint; this option must be given",
          "DIR");
    list_model_options(f, o.activation, o.ignore_extra_tensors, "config.json");
    f.add(
        "--tokenizer", o.tokenizer,
        "tokenizer.json, or vocab.json with merges.txt beside it, or their folder; auto: the one in the model folder; "
        "without one, prompts are --ids, and ids are printed",
        "FILE");
    f.choose("--special-tokens", o.special_tokens,
             Flags::Table<SpecialTokens>{
                 {"text", SpecialTokens::text}, {"ids", SpecialTokens::ids}, {"refuse", SpecialTokens::refuse}},
             "how special tokens that are written in a text are encoded: as plain text or as their ids; refuse: they "
             "are an error; auto: ids in a prompt, text everywhere else, as tokenize does");
    list_machine_options(f, o.machine);
    f.group("continue a prompt");
    f.add(
        "--prompt", o.prompt, any_text(),
        "text to continue; an empty one is the end-of-text token; without --prompt, --prompt-file and --ids, standard "
        "input is read");
    f.add("--prompt-file", o.prompt_file,
          "file with the text to continue; a line break at its end, or at that of standard input, is left out", "FILE");
    f.add("--tokens", o.tokens, at_least(0), "how many tokens to add, or the most of an answer of --chat");
    f.add("--stop", o.stop, "end a continuation or an answer before this text, or before the first of several",
          "TEXT…");
    f.add("--samples", o.samples, at_least(1).at_most(4096),
          "how many continuations of the prompt to write, each with its own random choices");
    f.add("--temperature", o.sampling.temperature, at_least(0),
          "number by which logits are divided before sampling; 0: always take the likeliest token");
    f.add("--top-k", o.sampling.top_k, at_least(0), "sample among this many of the likeliest tokens; 0: among all");
    f.add("--top-p", o.sampling.top_p, more_than(0).at_most(1),
          "sample among the fewest likeliest tokens that together have this probability; 1: among all");
    f.add("--seed", o.sampling.seed, "seed of the sampling");
    f.add("--stats", o.stats, "print the tokens per second to standard error at the end, or after each answer");
    f.group("instead of continuing a prompt");
    f.add("--score", o.score, "print the loss and perplexity of a text file, plain, .zst or .gz, or of a token shard",
          "FILE");
    f.add(
        "--eval", o.eval,
        "print the accuracy on the .jsonl of a benchmark, plain, .zst or .gz, or of several, as lm-evaluation-harness "
        "defines it; with --json the results of several are one list",
        "hellaswag|lambada FILE…");
    f.add(
        "--stride", o.stride, at_least(1).at_most(1 << 24),
        "tokens from one window of --score to the next, at most --context; with fewer, windows overlap, and each token "
        "is predicted from at least --context less --stride others; auto: --context, so that they do not overlap");
    f.add(
        "--context", o.context, at_least(1).at_most(1 << 24),
        "most tokens that the model reads at once; the newest ones of a longer prompt or conversation, and windows of "
        "--score and --eval; auto: the context of the model");
    f.add("--json", o.json,
          "print the result of --score, --eval, --probe or --lens as JSON; that of --score has the log-likelihood of "
          "every token");
    f.add("--ids", o.ids, "token ids in place of --prompt, to continue or for --logits", "1,2,3");
    f.add("--logits", o.logits, "print the logits at every position of the prompt or of --ids as JSON");
    f.group("talk");
    f.add("--chat", o.chat,
          "talk to the model: each line of standard input is a message, or a command, which /help lists");
    f.choose("--chat-template", o.chat_template,
             Flags::Table<std::string>{{"chatml", "chatml"}, {"alpaca", "alpaca"}, {"plain", "plain"}},
             "the form in which the model reads a conversation; auto: that of the chat template beside the tokenizer, "
             "or plain if there is none");
    f.group("look inside");
    f.add("--probe", o.probe,
          "train classifiers of labelled texts on the residual stream of each layer, and find the best single unit; "
          "both files are .jsonl, plain, .zst or .gz, whose lines have a text and one of two labels",
          "TRAIN_FILE TEST_FILE");
    f.add("--out", o.out,
          "new folder for what --probe finds: probe.json, probe.png, and directions.safetensors for --steer", "DIR");
    f.add("--activations", o.activations,
          "new .safetensors file for the labels of --probe and the activations that it uses", "FILE");
    f.add("--layers", o.layers,
          "layers that --probe and --lens show; 0 is the embedding, and l what block l leaves; left out: all", "0,1,2");
    f.add("--lens", o.lens, "print what each layer would say after the prompt: its stream through final norm and head");
    f.add("--steer", o.steer,
          "change the residual stream of a layer at every position: set a unit to a value, or add A times a direction, "
          "which is layer.LAYER.mean of a .safetensors file or its only tensor",
          "LAYER:UNIT=VALUE|LAYER:FILE*A…");
    list_foreign_names(f);
    const Flags::Words prompts  = {"--prompt", "--prompt-file", "--ids"};
    const Flags::Words sampling = {"--tokens", "--stop",  "--samples", "--temperature",
                                   "--top-k",  "--top-p", "--seed",    "--stats"};
    f.apart({"--score", "--eval", "--logits", "--probe", "--lens", "--chat"});
    f.apart(prompts);
    f.apart({"--score", "--eval", "--probe", "--chat"}, prompts);
    f.apart({"--score", "--eval", "--logits", "--probe", "--lens"}, sampling);
    f.apart({"--context"}, {"--logits"});
    f.apart({"--ids"}, {"--special-tokens"});
    f.only_with("--stride", {"--score"});
    f.only_with("--json", {"--score", "--eval", "--probe", "--lens"});
    f.apart({"--chat"}, {"--samples"});
    f.only_with("--chat-template", {"--chat"});
    f.only_with("--out", {"--probe"});
    f.only_with("--activations", {"--probe"});
    f.only_with("--layers", {"--probe", "--lens"});
}

// Returns false after printing --help or --version.
inline bool parse_options(InferOptions& o, Flags& flags, int argc, char** argv) {
    if (!flags.parse(argc, argv)) return false;
    if (!o.machine.cpu.is_auto()) host::use_cpu_level(o.machine.cpu, argv);
    CHECK(!o.model.empty(), "--model is missing: the folder of a model or of a run, such as runs/NAME");
    CHECK(!find_preset(o.model) || fs::exists(o.model + "/config.json"),
          "--model {}: a preset has no weights; train_gpt --model {} trains one, and infer_gpt --model runs/{} runs it",
          o.model, o.model, o.model);
    for (size_t i = 0; i < o.eval.size(); i += 2)
        CHECK(i + 1 < o.eval.size() && (o.eval[i] == "hellaswag" || o.eval[i] == "lambada"),
              "--eval: expected hellaswag FILE or lambada FILE, or several of them");
    CHECK(o.probe.empty() || o.probe.size() == 2, "--probe: expected the training texts and the test texts, two files");
    return true;
}

// The value of --ids, for a model with ids below `vocab`.
inline std::vector<int32_t> parse_ids(const std::string& list, int64_t vocab) {
    const auto numbers = parse_numbers("--ids", list, vocab, "token id of this model");
    return {numbers.begin(), numbers.end()};
}
// The value of --layers, sorted, for a model with this many blocks.
inline std::vector<int64_t> parse_layers(const std::optional<std::string>& list, int64_t blocks) {
    std::vector<int64_t> layers(size_t(blocks + 1));
    std::iota(layers.begin(), layers.end(), 0);
    if (!list) return layers;
    layers = parse_numbers("--layers", *list, blocks + 1, "layer of this model");
    std::sort(layers.begin(), layers.end());
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
    return layers;
}
