// options.h - the options of train_gpt, one entry each
//
// An Auto is decided by the model, the data or the machine unless the user gives it; resolve.h and machine.h decide.
// Some options are stored in the struct of the module that they set, such as OptimizerSettings. infer_options.h lists
// the options of infer_gpt.
#pragma once
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gpt/optimizers.h"
#include "gpt/presets.h"
#include "gpt/resume.h"
#include "gpt/scaling.h"
#include "gpt/shared_options.h"
#include "kernels/host.h"

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
    std::vector<int64_t> steps_to_save;  // the numbers of --save-steps, in order
    std::string program;                 // the path by which this program runs from any folder
    EarlierStarts earlier;               // holds what run.json says, with --resume
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

inline void list_model_and_data(Flags& f, Options& o) {
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
          "folder of the run, for the log, the plot and checkpoints; auto: runs/MODEL, with a number when that exists "
          "or is in use",
          "DIR");
    f.add(
        "--resume", o.resume,
        "continue the run in --out from its newest complete checkpoint; its options hold unless they are given again, "
        "which then holds for the next --resume");
}

inline void list_batch(Flags& f, Options& o) {
    f.group("batch");
    f.add("--steps", o.steps, at_least(1).at_most(UINT32_MAX),
          "optimizer steps of the whole run; with --resume and another number the learning rate goes on from where it "
          "stands and falls until the new end; auto: those of the preset if it has a number, else one epoch of the "
          "training data");
    f.add("--batch", o.batch, at_least(1).at_most(1 << 20), "sequences in a micro-batch of one process; auto: 4");
    f.add("--context", o.context, at_least(1).at_most(1 << 24),
          "tokens per sequence; a model with random weights or rotary positions gets at least as many positions; auto: "
          "the context of the model");
    f.add("--accumulate", o.accumulate, at_least(1),
          "micro-batches per optimizer step; auto: 1, or without --batch enough for the preset's published tokens per "
          "step");
    f.add("--tokens-per-step", o.tokens_per_step, at_least(1),
          "tokens per optimizer step, instead of --accumulate: a multiple of batch × context × processes; auto: "
          "--accumulate decides");
}

inline void list_optimizer(Flags& f, Options& o) {
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
        "the same bits, while the next forward pass begins, or before it with --graph. In bf16 with adamw it takes "
        "12 bytes a weight off the GPU and moves 8 over PCIe in each step; in fp32 8 and 12. With --shard each process "
        "does so with its own slice. none: they stay in the GPU's memory");
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
    f.add("--eps", o.optimizer.eps, more_than(0), "adamw's epsilon, added to the square root of the second moment");
    f.add("--clip", o.optimizer.clip, at_least(0),
          "largest norm of the gradients, which are scaled down to it when they are larger; 0: no limit");
    f.add("--stochastic-rounding", o.optimizer.stochastic_rounding,
          "round new bf16 weights up or down at random, so that updates too small for bf16 add up; left out: round to "
          "nearest");
    f.add("--max-skips", o.max_skips, at_least(0),
          "how many steps in a row may be skipped because their loss or gradient norm is not finite; one more ends the "
          "run");
}

inline void list_machine(Flags& f, Options& o) {
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
          "time the algorithms that cuBLASLt has for each product, and on a Hopper our own kernels, in the first step, "
          "and keep the fastest in products.json of the run's folder; a run that finds this file uses it; for one GPU");
    f.add("--graph", o.graph, "record a step as a CUDA graph and replay it with one launch; for GPUs only");
}

inline void list_while_training(Flags& f, Options& o) {
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
          "save while training goes on: copy the checkpoint's tensors to the host's memory, and let a thread write "
          "them; the files are the same; left out: training waits for them");
    f.add("--timeout", o.timeout, at_least(0).at_most(86400),
          "with several processes: seconds after which one that no longer answers, or a step in which none gets on, "
          "ends all of them; 0: never");
    f.add("--check-weights", o.check_weights, at_least(0),
          "with several processes: steps between comparisons of their weights, which name a process that differs; 0: "
          "only when a checkpoint is saved");
    f.add("--log-every", o.log_every, at_least(0),
          "steps between lines on the terminal; 0: only the first step and the last; log.jsonl has every step");
}

inline void list_instead_of_training(Flags& f, Options& o) {
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
}

inline void list_options(Flags& f, Options& o) {
    list_model_and_data(f, o);
    list_batch(f, o);
    list_optimizer(f, o);
    list_machine(f, o);
    list_while_training(f, o);
    list_instead_of_training(f, o);
    list_foreign_names(f);
    f.apart({"--accumulate", "--tokens-per-step"});
    f.apart({"--graph", "--sync"});
    f.apart({"--sequences", "--document-mask"});
    f.apart({"--tune", "--dry-run"});
    f.apart({"--gpu"}, {"--device cpu"});
    f.only_with("--gpu", {"--dry-run"});
    f.only_with("--add-tokens", {"--tokenizer"});
    f.only_with("--dpo-beta", {"--objective dpo"});
    f.only_with("--muon-learning-rate", {"--optimizer muon"});
    f.only_with("--muon-momentum", {"--optimizer muon"});
    f.only_with("--world", {"--gpu"});
    f.only_with("--link", {"--world"});
    f.only_with("--gpus-per-node", {"--world"});
}

// Returns false after printing --help or --version.
inline bool parse_options(Options& o, Flags& flags, int argc, char** argv, int world) {
    o.program                            = program_path(argv[0]);
    const std::vector<std::string> words = with_resumed_options({argv, argv + argc}, world, flags, o.earlier);
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
    const std::string run = o.out.value_or("");
    CHECK(
        !o.resume || fs::exists(run + "/run.json") || !fs::exists(run + "/checkpoints") ||
            (o.earlier.gives("--model") && o.earlier.gives("--train-data")),
        "--resume: {}/run.json is missing, which says with what options the run was started; give them all again, such "
        "as --model and --train-data",
        run);
    for (const char* of_samples : {"--prompt", "--sample-tokens"})
        if (o.earlier.gives(of_samples) && o.sample_every == 0)
            fmt::print(stderr, "warning: {} has an effect only with --sample-every\n", of_samples);
    o.optimizer.seed = o.seed;
    if (o.save_steps) o.steps_to_save = parse_numbers("--save-steps", *o.save_steps, int64_t(UINT32_MAX) + 1, "step");
    std::sort(o.steps_to_save.begin(), o.steps_to_save.end());
    return true;
}
