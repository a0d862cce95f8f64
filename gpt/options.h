// options.h - every option of train_gpt, one line each
//
// A default of 0 with the words "0: …" means that the model or the machine decides; resolve() puts the decision in, so
// that run.json and the re-runnable command line hold what was used.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "data/json.h"
#include "gpt/cli.h"
#include "gpt/generate.h"
#include "gpt/optimizers.h"
#include "gpt/presets.h"

struct Options {
    std::string model = "quickstart", train_data, val_data, hellaswag, tokenizer, out;
    int64_t steps = 0, batch = 0, context = 0, accumulate = 0, tokens_per_step = 0;
    Schedule schedule{Schedule::Kind::cosine, 0.f, -1.f, -1, 0};
    OptimizerSettings optimizer = [] {
        OptimizerSettings s;
        s.beta2 = s.weight_decay = -1;
        return s;
    }();
    std::string dtype = "auto", save_dtype = "auto", activation, device = "auto";
    Recompute recompute = Recompute::none;
    int threads         = 0;
    bool sync = false, graph = false, ignore_extra_tensors = false;
    uint64_t seed      = 1337;
    int64_t eval_every = -1, eval_batches = 20, hellaswag_questions = 0, sample_every = 0, sample_tokens = 100,
            save_every = -1, keep = 2, log_every = 10;
    int64_t max_skips = 10;
    std::string prompt;
    bool document_mask = false, resume = false, dry_run = false, list_models = false;
};

// clang-format off
inline void list_options(Flags& f, Options& o) {
    using Kind = Schedule::Kind;
    f.group("model and data");
    f.add("--model",              o.model,          "preset (random weights; --list-models) or model folder (its weights)", "NAME|DIR");
    f.add("--activation",         o.activation,     "gelu (erf form), gelu_new or gelu_fast (tanh form); none: what preset or config.json say", "NAME");
    f.add("--ignore-extra-tensors", o.ignore_extra_tensors, "leave out the tensors of a model folder that are no weights of the model, such as the head of a classifier");
    f.add("--train-data",         o.train_data,     "token shards; quotes keep the shell from expanding the pattern", "'GLOB'");
    f.add("--val-data",           o.val_data,       "token shards for validation; none: no evaluation", "'GLOB'");
    f.add("--document-mask",      o.document_mask,  "attention stays within a document and positions restart: each begins at its <|endoftext|>");
    f.add("--tokenizer",          o.tokenizer,      "tokenizer.json, or vocab.json beside merges.txt, for samples and checkpoints; none: what lies beside data or model", "FILE");
    f.add("--out",                o.out,            "run folder; none: runs/MODEL, numbered when taken", "DIR");
    f.add("--resume",             o.resume,         "continue the newest complete checkpoint in --out, with its options unless given again");
    f.group("batch");
    f.add("--steps",              o.steps,          "optimizer steps in all; 0: one epoch of the training data");
    f.add("--batch",              o.batch,          "sequences per micro-step, of each process; 0: 4");
    f.add("--context",            o.context,        "tokens per sequence; 0: as long as the model allows");
    f.add("--accumulate",         o.accumulate,     "micro-steps per optimizer step; 0: 1, without --batch what makes the tokens published for the preset");
    f.add("--tokens-per-step",    o.tokens_per_step,"another way to say --accumulate: a multiple of batch × context × processes");
    f.group("optimizer");
    f.choose("--optimizer",       o.optimizer.kind,     optimizer_names(), "adamw for all weights; muon for hidden matrices and adamw for the others");
    f.add("--muon-learning-rate", o.optimizer.muon_learning_rate, "peak for the matrices that muon updates; follows the schedule of --learning-rate in proportion");
    f.add("--muon-momentum",      o.optimizer.muon_momentum, "decay of muon's momentum");
    f.add("--learning-rate",      o.schedule.learning_rate, "peak; 0: what was published for the preset, 3e-5 for weights from a model folder, else 6e-4");
    f.add("--warmup-steps",       o.schedule.warmup_steps,  "linear from nearly 0; -1: what was published for the preset, at most a fiftieth of the run");
    f.choose("--schedule",        o.schedule.kind,  Flags::Table<Kind>{{"cosine", Kind::cosine}, {"linear", Kind::linear}, {"constant", Kind::constant}, {"wsd", Kind::wsd}},
                                                    "after warm-up");
    f.add("--final-learning-rate",o.schedule.final_rate,    "at the last step; -1: what was published for the preset, else a tenth of the peak");
    f.add("--weight-decay",       o.optimizer.weight_decay,     "of matrices and embeddings; -1: what was published for the preset, else 0.1");
    f.add("--beta1",              o.optimizer.beta1,    "decay of the first moment");
    f.add("--beta2",              o.optimizer.beta2,    "decay of the second moment; -1: what was published for the preset, else 0.95");
    f.add("--eps",                o.optimizer.eps,      "added to the root of the second moment");
    f.add("--clip",               o.optimizer.clip,     "largest gradient norm; 0: no limit");
    f.add("--stochastic-rounding",o.optimizer.stochastic_rounding, "bf16 weights round up or down at random, so that small updates add up");
    f.add("--max-skips",          o.max_skips,      "steps in a row that may be skipped for a loss or norm that is not finite");
    f.group("machine");
    f.choose("--dtype",           o.dtype,          {"auto", "bf16", "fp32"}, "of weights and activations; auto: bf16 where it is fast");
    f.choose("--save-dtype",      o.save_dtype,     {"auto", "bf16", "fp16", "fp32"}, "of weights in checkpoints; auto: that of the model folder, or --dtype");
    f.choose("--device",          o.device,         {"auto", "cpu", "cuda"}, "where to run; for several GPUs torchrun, mpirun or srun starts a process on each");
    f.add("--threads",            o.threads,        "CPU threads; 0: one per core");
    f.add("--sync",               o.sync,           "wait after every GPU kernel, so that an error names the op it happened in");
    f.add("--seed",               o.seed,           "of weights, data order and samples");
    f.choose("--recompute",       o.recompute,      Flags::Table<Recompute>{{"none", Recompute::none}, {"gelu", Recompute::gelu}, {"norm", Recompute::norm}, {"block", Recompute::block}},
                                                    "activations to compute again instead of keeping: memory for time, the same bits");
    f.add("--graph",              o.graph,          "on a GPU, record a step as a CUDA graph and play it: one launch a step");
    f.group("along the way");
    f.add("--eval-every",         o.eval_every,     "steps between evaluations; 0: never; -1: ten times in a run");
    f.add("--eval-batches",       o.eval_batches,   "batches in an evaluation");
    f.add("--hellaswag",          o.hellaswag,      "HellaSwag's .jsonl, scored at each evaluation as lm-evaluation-harness does", "FILE");
    f.add("--hellaswag-questions", o.hellaswag_questions, "the first so many of them; 0: all, 10,042 in the published file");
    f.add("--sample-every",       o.sample_every,   "steps between samples of text; 0: never");
    f.add("--sample-tokens",      o.sample_tokens,  "length of a sample");
    f.add("--prompt",             o.prompt,         "beginning of a sample; none: <|endoftext|>");
    f.add("--save-every",         o.save_every,     "steps between checkpoints; 0: never; -1: as often as evaluations, and at the end");
    f.add("--keep",               o.keep,           "checkpoints to keep, the newest; 0: all");
    f.add("--log-every",          o.log_every,      "steps between lines on the terminal; log.jsonl has every step");
    f.group("instead of training");
    f.add("--dry-run",            o.dry_run,        "print parameters, memory by group, tokens and FLOPs, and allocate nothing");
    f.add("--list-models",        o.list_models,    "print the table of presets");
}
// clang-format on

// The words of a command line, with those of the run in --out put in front of them when it says --resume: what was
// given for that run holds unless it is given again. In another number of processes a step keeps its tokens.
inline std::vector<std::string> with_resumed_options(const std::vector<std::string>& args, int world) {
    std::string out;
    std::set<std::string> given;
    bool resume = false;
    for (size_t i = 1; i < args.size(); i++) {
        const std::string name = args[i].substr(0, args[i].find('='));
        given.insert(name);
        resume |= args[i] == "--resume" || args[i] == "--resume=true";
        if (name == "--out") out = args[i].size() > 6 ? args[i].substr(6) : i + 1 < args.size() ? args[i + 1] : "";
    }
    if (!resume || out.empty() || !fs::exists(out + "/run.json")) return args;
    const Fields run(out + "/run.json");
    std::vector<std::string> all = {args[0]};
    CHECK(run.has("options") && run.raw("options").is_object(), "{}: the field \"options\" is missing", run.path());
    const int64_t tokens = run.integer("world", 1) != world ? run.integer("tokens_per_step", 0) : 0;
    for (const auto& [name, value] : run.raw("options").items()) {
        if (given.count(name) || !value.is_string()) continue;
        const bool accumulate = name == "--accumulate";
        if (accumulate && given.count("--tokens-per-step")) continue;
        all.push_back(accumulate && tokens ? fmt::format("--tokens-per-step={}", tokens)
                                           : name + "=" + value.get<std::string>());
    }
    all.insert(all.end(), args.begin() + 1, args.end());
    return all;
}

// False when --help or --version was printed.
inline bool parse_options(Options& o, Flags& flags, int argc, char** argv, int world) {
    const std::vector<std::string> words = with_resumed_options({argv, argv + argc}, world);
    std::vector<const char*> pointers;
    for (const std::string& w : words) pointers.push_back(w.c_str());
    if (!flags.parse(int(pointers.size()), pointers.data())) return false;

    const auto at_least = [](const char* name, auto value, auto least) {
        CHECK(value >= least, "{} {}: expected {} or more", name, value, least);
    };
    at_least("--steps", o.steps, 0);
    at_least("--batch", o.batch, 0);
    at_least("--context", o.context, 0);
    at_least("--accumulate", o.accumulate, 0);
    at_least("--tokens-per-step", o.tokens_per_step, 0);
    at_least("--learning-rate", o.schedule.learning_rate, 0.f);
    at_least("--warmup-steps", o.schedule.warmup_steps, -1);
    at_least("--eps", o.optimizer.eps, 0.f);
    at_least("--clip", o.optimizer.clip, 0.f);
    at_least("--eval-every", o.eval_every, -1);
    at_least("--eval-batches", o.eval_batches, 1);
    at_least("--hellaswag-questions", o.hellaswag_questions, 0);
    at_least("--sample-every", o.sample_every, 0);
    at_least("--sample-tokens", o.sample_tokens, 1);
    at_least("--save-every", o.save_every, -1);
    at_least("--keep", o.keep, 0);
    at_least("--log-every", o.log_every, 0);
    at_least("--max-skips", o.max_skips, 0);
    CHECK(o.optimizer.beta1 >= 0 && o.optimizer.beta1 < 1, "--beta1 {}: expected 0 or more, less than 1",
          o.optimizer.beta1);
    CHECK(o.optimizer.beta2 < 1 && (o.optimizer.beta2 >= 0 || o.optimizer.beta2 == -1),
          "--beta2 {}: expected 0 or more, less than 1", o.optimizer.beta2);
    CHECK(!(o.accumulate && o.tokens_per_step), "--accumulate and --tokens-per-step say the same thing: give one");
    CHECK(o.optimizer.muon_momentum >= 0 && o.optimizer.muon_momentum < 1,
          "--muon-momentum {}: expected 0 or more, less than 1", o.optimizer.muon_momentum);
    at_least("--muon-learning-rate", o.optimizer.muon_learning_rate, 0.f);
    CHECK(!o.graph || o.device != "cpu", "--graph: CUDA graphs are for --device cuda, not for the CPU");
    CHECK(!o.graph || !o.sync, "--graph and --sync: a graph is one launch, with nothing to wait for inside; give one");
    o.optimizer.seed = o.seed;
    CHECK(!o.resume || !o.out.empty(), "--resume needs --out, the folder of the run to continue");
    return true;
}

// The recipe of a preset, or one for a model folder. Trained weights start at a twentieth of the rate for random ones:
// the peak of a pretraining run would undo some of it before it teaches anything.
inline Recipe recipe_for(const Preset* preset, bool trained_weights) {
    if (preset) return preset->recipe;
    Recipe recipe;
    if (trained_weights) recipe.learning_rate = 3e-5f;
    return recipe;
}

// Puts in what the model decides.
inline void resolve(Options& o, const Config& c, const Recipe& recipe, int world) {
    const bool batch_given = o.batch;
    if (!o.batch) o.batch = 4;
    if (!o.context) o.context = c.context;
    CHECK(o.batch <= 1 << 20 && o.context <= 1 << 24, "--batch {} --context {}: out of range", o.batch, o.context);
    const int64_t micro = o.batch * o.context * world;
    CHECK(o.tokens_per_step % micro == 0, "--tokens-per-step {}: not a multiple of batch × context{} = {}; {} would be",
          o.tokens_per_step,
          world == 1 ? fmt::format(" = {} × {}", o.batch, o.context)
                     : fmt::format(" × processes = {} × {} × {}", o.batch, o.context, world),
          micro, std::max<int64_t>(1, o.tokens_per_step / micro) * micro);
    if (o.tokens_per_step) o.accumulate = o.tokens_per_step / micro;
    if (!o.accumulate && !batch_given) o.accumulate = (recipe.tokens_per_step + micro / 2) / micro;
    if (!o.accumulate) o.accumulate = 1;
    o.tokens_per_step = 0;
    if (o.schedule.learning_rate == 0) o.schedule.learning_rate = recipe.learning_rate;
    if (o.optimizer.weight_decay < 0) o.optimizer.weight_decay = recipe.weight_decay;
    if (o.optimizer.beta2 < 0) o.optimizer.beta2 = recipe.beta2;
    if (o.schedule.final_rate < 0)  // to six digits: a tenth of 6e-4 is 6e-05, not 6.0000002e-05
        o.schedule.final_rate =
            std::strtof(fmt::format("{:.6g}", double(o.schedule.learning_rate) * recipe.final_share).c_str(), nullptr);
    if (!o.steps) o.steps = recipe.steps;
}
inline int64_t tokens_of_step(const Options& o, int world) { return o.batch * o.context * o.accumulate * world; }
inline void resolve_steps(Options& o, const Recipe& recipe, int world, int64_t train_tokens) {
    if (!o.steps) o.steps = std::max<int64_t>(1, train_tokens / tokens_of_step(o, world));
    o.schedule.steps = o.steps;
    if (o.schedule.warmup_steps < 0) o.schedule.warmup_steps = recipe.warmup_of(o.steps);
    CHECK(o.schedule.warmup_steps <= o.steps, "--warmup-steps {} is more than --steps {}", o.schedule.warmup_steps,
          o.steps);
    if (o.eval_every < 0) o.eval_every = std::max<int64_t>(1, o.steps / 10);
    if (o.save_every < 0) o.save_every = o.eval_every ? o.eval_every : std::max<int64_t>(1, o.steps / 10);
}
