// train_gpt - trains a GPT: options → model → loop → close
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>

#include "data/tokenizer.h"
#include "gpt/checkpoint.h"
#include "gpt/comm.h"
#include "gpt/evaluation.h"
#include "gpt/log.h"
#include "gpt/options.h"
#include "gpt/plan.h"
#include "gpt/step.h"
#include "kernels/measure.h"

// The first Ctrl-C or SIGTERM asks the loop to finish its step, save and stop; the second ends the program at once.
static volatile std::sig_atomic_t stop_asked = 0;
static void on_signal(int signal) {
    if (stop_asked) std::_Exit(128 + signal);
    stop_asked = signal;
}

static bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

static void list_models() {
    fmt::print("{:<14} {:<8} {:>6} {:>5} {:>5} {:>7} {:>5} {:>15} {:>8} {:>11} {:>7} {:>5} {:>5}  {}\n", "model",
               "family", "layers", "width", "heads", "context", "vocab", "parameters", "rate", "tokens/step", "warm-up",
               "decay", "beta2", "init");
    for (const Preset& p : presets()) {
        const Config c = config_of(p);
        fmt::print("{:<14} {:<8} {:>6} {:>5} {:>5} {:>7} {:>5} {:>15} {:>8.2e} {:>11} {:>7} {:>5} {:>5}  {}\n", p.name,
                   c.model_type, p.layers, p.width, p.heads, p.context, p.vocab, grouped(count_params(c)),
                   p.recipe.learning_rate, grouped(p.recipe.tokens_per_step),
                   p.recipe.published_steps ? grouped(p.recipe.warmup_steps) : "2 %", p.recipe.weight_decay,
                   p.recipe.beta2, c.initial_weights == InitialWeights::gpt2 ? "gpt2" : "small/wang");
    }
}

// The quick-start data when nothing was asked for, and files that lie where one expects them.
static void find_files(Options& o, const Preset* preset) {
    const std::string home = "data/sets/austen/";
    if (o.train_data.empty() && preset && o.model == "quickstart") {
        CHECK(fs::exists(home + "austen_train_000000.bin"),
              "no --train-data, and the quick-start text is not prepared; `make quickstart` prepares it and trains");
        o.train_data = home + "austen_train_*.bin";
        if (o.val_data.empty()) o.val_data = home + "austen_val_*.bin";
    }
    CHECK(!o.train_data.empty() || o.dry_run,
          "--train-data is missing: token shards, such as --train-data 'data/stories_train_*.bin'");
    if (!o.tokenizer.empty()) return;
    for (const fs::path& folder : {preset ? fs::path() : fs::path(o.model), fs::path(o.train_data).parent_path()})
        if (o.tokenizer.empty() && !folder.empty()) o.tokenizer = tokenizer_in(folder);
}

// A new run needs a folder of its own; a resumed one needs the folder it had.
static void claim_folder(Options& o) {
    if (o.resume) return;
    const auto taken = [](const std::string& folder) {
        return fs::exists(folder + "/run.json") || fs::exists(folder + "/checkpoints");
    };
    if (o.out.empty()) {
        const std::string base = "runs/" + run_name(o.model);
        o.out                  = base;
        for (int n = 2; taken(o.out); n++) o.out = fmt::format("{}-{}", base, n);
    }
    CHECK(!taken(o.out), "--out {} already holds a run: --resume continues it, another --out starts a new one", o.out);
}

// The most host memory that this process has held, in bytes.
static int64_t peak_bytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t(usage.ru_maxrss) * 1024;
}

static MemoryPlan plan_of(const Options& o, const Config& c, DType dtype, const Device& dev, int64_t batch,
                          Recompute recompute) {
    RunSize run{c, dtype, {batch, o.context, true, recompute}};
    run.optimizer     = o.optimizer.kind;
    run.micro_steps   = o.accumulate;
    run.documents     = o.document_mask;
    run.sample_tokens = o.sample_every ? int64_t(o.prompt.size()) + 1 + o.sample_tokens : 0;
    return plan_memory(run, dev);
}

static std::string describe(const MemoryPlan& p) {
    return fmt::format("weights {} · gradients {} · optimizer {} · activations {} · buffers {}{} · total {}",
                       gibibytes(p.weights), gibibytes(p.gradients), gibibytes(p.optimizer), gibibytes(p.activations),
                       gibibytes(p.buffers), p.program ? " · program " + gibibytes(p.program) : "",
                       gibibytes(p.total()));
}

static std::string describe(const Schedule& s) {
    const std::string warmup = s.warmup_steps
                                   ? fmt::format("{} after {} steps of warm-up", s.learning_rate, s.warmup_steps)
                                   : fmt::format("{}", s.learning_rate);
    if (s.kind == Schedule::Kind::constant) return warmup + ", then constant";
    const char* how = s.kind == Schedule::Kind::cosine   ? "cosine"
                      : s.kind == Schedule::Kind::linear ? "linear"
                                                         : "constant, its last fifth linear,";
    return fmt::format("{}, then {} to {}", warmup, how, s.final_rate);
}

// What would fit into `free` bytes: a batch, or one with everything recomputed.
static std::string room(const Options& o, const Config& c, DType x, const Device& dev, int64_t free) {
    const auto largest = [&](Recompute recompute) {
        return largest_batch(free, [&](int64_t b) { return plan_of(o, c, x, dev, b, recompute).total(); });
    };
    if (const int64_t b = largest(o.recompute)) return fmt::format("--batch {}", b);
    if (const int64_t b = largest(Recompute::block)) return fmt::format("--recompute block --batch {}", b);
    return "no --batch; a smaller --model or --context, or a device with more memory";
}

static void header(Log& log, const Options& o, const Flags& flags, const Config& c, DType dtype, const Device& dev,
                   int world, const MemoryPlan& plan, int64_t free, int64_t train_tokens, int64_t val_tokens) {
    const double flops   = train_flops_per_token(c, o.context);
    const int64_t tokens = tokens_of_step(o, world);
    log.say("run", fmt::format("{} · commit {} · seed {}", o.dry_run ? "(dry run)" : o.out, GPT_COMMIT, o.seed));
    log.say("", flags.command());
    log.say("model", fmt::format("{} · {} layers × {} wide × {} heads · context {} · {} parameters", c.name, c.layers,
                                 c.width, c.heads, o.context, grouped(count_params(c))));
    const std::string threads = dev.where() == Machine::cpu ? fmt::format(" · {} threads", dev.threads()) : "";
    log.say("device",
            fmt::format("{}{}{}{} · {}{}", world > 1 ? fmt::format("{} × ", world) : "", dev.name(), threads,
                        world > 1 ? " · " + Collective::library() : "", name_of(dtype),
                        o.dry_run ? "" : fmt::format(" · {:.0f} GFLOP/s measured", dev.peak_flops(dtype) / 1e9)));
    if (train_tokens)
        log.say("data", fmt::format("train {} tokens · val {}", grouped(train_tokens),
                                    val_tokens ? grouped(val_tokens) : "none"));
    log.say("batch", fmt::format("{} × {} × {} micro{} = {} tokens a step · {} steps = {} tokens", o.batch, o.context,
                                 o.accumulate, world > 1 ? fmt::format(" × {} processes", world) : "", grouped(tokens),
                                 grouped(o.steps), rounded(double(o.steps) * tokens)));
    log.say("rate", describe(o.schedule));
    log.say("memory", describe(plan) + (world > 1 ? " on each" : ""));
    const int64_t rows = logits_rows(c, {o.batch, o.context}, dtype);
    log.say("", fmt::format("logits of {} rows at a time: {:.0f} MiB, at most {} MiB or 64 rows", rows,
                            double(rows * c.padded_vocab() * size_of(dtype)) / (1 << 20), logits_bytes >> 20));
    log.say("", fmt::format("of {} free{} · room for {}", gibibytes(free),
                            dev.where() == Machine::cuda
                                ? fmt::format(", which already leaves out the CUDA context (allow {} for it)",
                                              gibibytes(cuda_context_bytes))
                                : "",
                            room(o, c, dtype, dev, free)));
    log.say("compute", fmt::format("{}FLOP a token · {}FLOP a step · {}FLOP in all", rounded(flops),
                                   rounded(flops * tokens), rounded(flops * tokens * double(o.steps))));
}

static void write_run_json(const Options& o, const Flags& flags, const Config& c, DType dtype, int world,
                           const Loader& train, const Loader* val) {
    nlohmann::ordered_json options;
    for (const Setting& s : flags.list())
        if (!s.is_default && s.name != "--resume") options[s.name] = s.value;
    const nlohmann::ordered_json j = {
        {"command", flags.command()},
        {"options", options},
        {"version", GPT_VERSION},
        {"commit", GPT_COMMIT},
        {"dtype", name_of(dtype)},
        {"world", world},
        {"tokens_per_step", tokens_of_step(o, world)},
        {"parameters", count_params(c)},
        {"data", {{"train", train.fingerprint()}, {"val", val ? val->fingerprint() : ""}}}};
    write_file(o.out + "/run.json", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

// A short number that changes when any weight does.
static std::string fingerprint(Model& m) {
    uint64_t h = 0;
    std::vector<char> host;
    for (const ParamRow& r : param_rows(m.params, m.config)) {
        host.resize(r.tensor->bytes());
        to_host(host.data(), *r.tensor, m.stream);
        uint64_t word = 0;
        for (size_t i = 0; i + 8 <= host.size(); i += 8)
            std::memcpy(&word, host.data() + i, 8), h = mix64(h ^ word) + i;
    }
    return fmt::format("{:08x}", uint32_t(h ^ (h >> 32)));
}

// --resume with another --model than the run was started with: names the first field of config.json that differs.
static void refuse_other_model(const Config& asked, const Config& saved, const Options& o) {
    const auto ours = config_json(asked, "F32"), theirs = config_json(saved, "F32");
    for (const auto& [key, value] : theirs.items())
        CHECK(!ours.contains(key) || ours[key] == value || key == "architectures" || key == "bos_token_id" ||
                  key == "eos_token_id",
              "--model {} is not the model of the run in {}: {} is {} here and {} there", o.model, o.out, key,
              ours[key].dump(), value.dump());
}

// Gives the model its first weights: from the run's newest checkpoint, from a model folder, or random. Says which.
static std::string begin(const Options& o, const Preset* preset, Model& model, Optimizer& optimizer, Loader& train,
                         TrainState& state) {
    if (o.resume) {
        const std::string from = newest_checkpoint(o.out);
        refuse_other_model(model.config, read_config(from), o);
        state = load_checkpoint(from, model, optimizer);
        CHECK(state.seed == o.seed, "--seed {}: the run in {} has seed {}", o.seed, o.out, state.seed);
        CHECK(state.data_fingerprint == train.fingerprint(),
              "--train-data {} is not what the run in {} was trained on; a new --out with --model {} fine-tunes on it",
              o.train_data, o.out, from);
        CHECK(state.step <= o.steps, "--steps {}: the run in {} has done {} already", o.steps, o.out, state.step);
        train.seek(state.position);
        return "continues " + from;
    }
    state.weights_dtype = stored_name(model.dtype);
    if (!preset && !weight_files(o.model).empty()) {
        const SafetensorsReader weights(o.model);
        const auto warnings =
            load_weights(model.params, model.config, weights, model.stream,
                         model.dtype == DType::F32 ? nullptr : &optimizer.master(), o.ignore_extra_tensors);
        for (const std::string& warning : warnings) fmt::print(stderr, "warning: {}\n", warning);
        state.weights_dtype = stored_dtype(weights);
        return fmt::format("fine-tunes the weights of {} ({}: {})", o.model, weights.description(),
                           state.weights_dtype);
    }
    initialise_params(model.params, model.config, o.seed, model.stream);
    optimizer.start_from_weights();
    return preset ? "random weights" : "random weights, because there are none in " + o.model;
}

static std::string write_text(const Options& o, Model& model, const Tokenizer& tokenizer) {
    std::string text         = o.prompt.empty() && tokenizer.eot() < 0 ? "\n" : o.prompt;
    std::vector<int32_t> ids = text.empty() ? std::vector<int32_t>{tokenizer.eot()} : tokenizer.encode(text);
    generate(model, ids, o.sample_tokens, 1, Sampling{0.8f, 0, 0.95f, o.seed}, [&](int64_t, int32_t id) {
        if (id == tokenizer.eot() || id >= tokenizer.vocab_size()) return false;
        text += tokenizer.bytes_of(id);
        return true;
    });
    return text;
}

static int run(int argc, char** argv) {
    const Stopwatch since_start;
    const Ranks ranks = ranks_from_environment();
    if (ranks.rank > 0)
        CHECK_RUN(std::freopen("/dev/null", "w", stdout), "/dev/null: {}", os_error());  // rank 0 speaks
    Options o;
    Flags flags("train_gpt", "trains GPT-2- and GPT-NeoX-style language models", backends());
    list_options(flags, o);
    if (!parse_options(o, flags, argc, argv, ranks.world)) return 0;
    if (o.list_models) return list_models(), 0;

    const Preset* preset = find_preset(o.model);
    Config config        = preset ? config_of(*preset) : read_config(o.model);
    if (!o.activation.empty()) set_activation(config, o.activation, "--activation");
    find_files(o, preset);
    const Recipe recipe = recipe_for(preset, !preset && !weight_files(o.model).empty());
    resolve(o, config, recipe, ranks.world);

    const Device dev(o.device, ranks.local, o.threads, o.sync);
    CHECK(ranks.world == 1 || dev.where() == Machine::cuda,
          "{} processes on the CPU: not yet; start one, whose --threads use all cores, or use --device cuda",
          ranks.world);
    CHECK(ranks.world == 1 || !Collective::library().empty(),
          "{} processes, but this binary was built without NCCL; install it and run make again, or start one process",
          ranks.world);
    const DType dtype = o.dtype == "auto"   ? (dev.fast_bf16() ? DType::BF16 : DType::F32)
                        : o.dtype == "bf16" ? DType::BF16
                                            : DType::F32;
    CHECK(dtype == DType::BF16 || !o.optimizer.stochastic_rounding,
          "--stochastic-rounding is for weights in bf16; these are in fp32 (--dtype bf16)");
    const BatchShape shape{o.batch, o.context, true, o.recompute};
    const MemoryPlan plan = plan_of(o, config, dtype, dev, o.batch, o.recompute);
    const int64_t free    = dev.free_bytes();
    std::unique_ptr<Tokenizer> tokenizer =
        o.tokenizer.empty() ? nullptr : std::make_unique<Tokenizer>(Tokenizer::load(o.tokenizer));
    if (tokenizer) {
        CHECK(tokenizer->vocab_size() <= config.vocab, "{}: ids up to {}, but {} has a vocabulary of {}", o.tokenizer,
              tokenizer->vocab_size() - 1, config.name, config.vocab);
        if (tokenizer->eot() >= 0) config.eot = tokenizer->eot();
        if (preset || config.bos < 0) config.bos = config.eot;
    }
    CHECK(!o.document_mask || config.eot >= 0,
          "--document-mask: the id of <|endoftext|> is not known; give a --tokenizer FILE that has it");
    const auto loader = [&](const std::string& pattern, bool shuffle) {
        return Loader({pattern, o.batch, o.context, config.vocab, o.seed, ranks.rank, ranks.world, shuffle,
                       o.document_mask ? config.eot : -1});
    };
    if (o.dry_run) {
        const int64_t train_tokens = o.train_data.empty() ? 0 : loader(o.train_data, true).tokens();
        resolve_steps(o, recipe, ranks.world, train_tokens);
        Log log("", "", o.steps, 0, -1);
        header(log, o, flags, config, dtype, dev, ranks.world, plan, free, train_tokens, 0);
        return 0;
    }

    Loader train                = loader(o.train_data, true);
    std::unique_ptr<Loader> val = o.val_data.empty() ? nullptr : std::make_unique<Loader>(loader(o.val_data, false));
    resolve_steps(o, recipe, ranks.world, train.tokens());
    if (val) o.eval_batches = std::min(o.eval_batches, std::max<int64_t>(1, val->windows() / (o.batch * ranks.world)));
    CHECK(!o.sample_every || tokenizer, "--sample-every needs a --tokenizer FILE");
    CHECK(o.hellaswag.empty() || tokenizer, "--hellaswag needs a --tokenizer FILE");
    const std::vector<Question> hellaswag =
        o.hellaswag.empty() ? std::vector<Question>{} : read_hellaswag(o.hellaswag, *tokenizer, o.hellaswag_questions);
    Comm comm(ranks, hash64(flags.command(), hash64(GPT_COMMIT)));
    if (comm.first()) claim_folder(o);
    o.out = comm.share(o.out);
    CHECK_RUN(plan.total() <= free, "out of memory before the start: {}; {} has {} free, room for {}", describe(plan),
              dev.name(), gibibytes(free), room(o, config, dtype, dev, free));
    dev.peak_flops(dtype);  // measured while there is room for it

    Model model(config, dtype, shape, dev);
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(model, o.optimizer);
    comm.join_gpus(model.stream);
    if (dev.where() == Machine::cuda) dev.reserve_scratch(scratch_bytes(config, shape));
    TrainState state{0, 0, {}, o.seed, train.fingerprint()};
    const std::string start = begin(o, preset, model, *optimizer, train, state);
    if (o.save_dtype != "auto")
        state.weights_dtype = o.save_dtype == "fp32" ? "F32" : o.save_dtype == "fp16" ? "F16" : "BF16";

    state.world = ranks.world;
    fs::create_directories(o.out);
    if (!o.resume && comm.first()) write_run_json(o, flags, config, dtype, ranks.world, train, val.get());
    Log log(comm.first() ? o.out : "", config.name, o.steps, o.log_every, o.resume ? state.step : -1);
    header(log, o, flags, config, dtype, dev, ranks.world, plan, free, train.tokens(), val ? val->tokens() : 0);
    log.say("start", fmt::format("{} · ready in {:.2f} s", start, since_start.seconds()));
    if (preset && preset->recipe.published_steps && preset->recipe.tokens_per_step != tokens_of_step(o, ranks.world))
        log.say("", fmt::format("{} was published with {} tokens a step, which --tokens-per-step can keep", o.model,
                                grouped(preset->recipe.tokens_per_step)));
    if (!config.learned_positions && o.context > config.context)
        log.warn(state.step, fmt::format("--context {} is more than the {} that {} was made for", o.context,
                                         config.context, config.name));
    log.record({{"event", "start"},
                {"step", state.step},
                {"command", flags.command()},
                {"model", config.name},
                {"parameters", count_params(config)},
                {"dtype", name_of(dtype)},
                {"device", dev.name()},
                {"world", ranks.world},
                {"threads", dev.threads()},
                {"peak_flops", dev.peak_flops(dtype)},
                {"planned_bytes", plan.total()},
                {"startup_s", since_start.seconds()}});
    log.columns();

    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    const int64_t tokens_per_step = tokens_of_step(o, ranks.world);
    const double flops_per_step   = train_flops_per_token(config, o.context) * double(tokens_per_step) / ranks.world;
    const int64_t first           = state.step;
    int64_t skips                 = 0;
    bool stopping                 = false;  // all processes at the same step
    auto steps                    = std::make_unique<Step>(model, *optimizer, comm, train, o.schedule,
                                        StepSettings{o.accumulate, o.document_mask, o.graph});
    for (;; state.step++) {
        const int64_t step  = state.step;
        const bool last     = step == o.steps || stopping,
                   again    = step == first && o.resume;  // again: done before the stop
        const bool eval_due = o.eval_every && !again && (step == o.steps || due(step, o.eval_every));
        if (val && eval_due) {
            const Stopwatch watch;
            const float loss = float(comm.mean(mean_loss(model, *val, o.eval_batches)));
            log.eval(step, state.tokens, loss, watch.seconds());
        }
        if (!hellaswag.empty() && eval_due && comm.first()) {
            const Stopwatch watch;
            const HellaSwagScore score = score_hellaswag(model, hellaswag);
            log.hellaswag(step, score.acc, score.acc_norm, score.questions, watch.seconds());
        }
        if (o.sample_every && comm.first() && !again && step > 0 && (step == o.steps || due(step, o.sample_every)))
            log.sample(step, write_text(o, model, *tokenizer));
        const bool save_due = o.save_every && !again && (last || due(step, o.save_every));
        if (step > 0 && (save_due || (stopping && step > first))) {
            comm.expect_same([&] { return fingerprint(model); }, "the weights");
            if (comm.first()) log.save(step, save_checkpoint(o.out, state, model, *optimizer, o.tokenizer, o.keep));
        }
        if (last) break;

        // ---- one training step: batch × context × accumulate × world tokens ---------------------------------------
        const ProfilerRange range("step");
        const Stopwatch watch;
        const StepResult result = steps->run(step, stop_asked);
        const bool skip         = !result.finite();  // then the weights are as they were
        stopping                = result.stop;
        if (!skip) state.rounded_at = optimizer->rounded_at(step + 1);
        state.position = steps->position();
        state.tokens += tokens_per_step;
        const double seconds = watch.seconds();
        // -----------------------------------------------------------------------------------------------------------
        log.step({step + 1, result.loss, result.norm, learning_rate(o.schedule, step), seconds, tokens_per_step,
                  state.tokens, flops_per_step / seconds / dev.peak_flops(dtype), skip});
        skips = skip ? skips + 1 : 0;
        if (skips > o.max_skips) {
            const auto saved = checkpoints_of(o.out);
            throw RunError(fmt::format(
                "{} steps in a row gave a loss or gradient norm that is not finite; {}; try a lower --learning-rate",
                skips,
                saved.empty() ? "nothing was saved before"
                              : "the last good checkpoint is " + checkpoint_path(o.out, saved.back())));
        }
    }
    const std::string print = fingerprint(model);
    comm.expect_same(print, "the weights");
    steps.reset();  // first, because NCCL ends when no graph holds its sums any more
    comm.finish();
    const bool gpu = dev.where() == Machine::cuda;
    const int64_t peak =
        gpu ? free - dev.free_bytes() : peak_bytes();  // on a GPU, all that was allocated is still there
    log.record({{"event", "end"},
                {"step", state.step},
                {"tokens", state.tokens},
                {"fingerprint", print},
                {"peak_bytes", peak}});
    if (state.step < o.steps)
        log.say("\nstopped",
                fmt::format("after step {}; continue with: ./train_gpt --out {} --resume", state.step, o.out));
    else
        log.say("\ndone", fmt::format("{} steps · weights {} · peak memory {} · {}", state.step, print, gibibytes(peak),
                                      o.save_every ? o.out + "/checkpoints/latest" : "not saved (--save-every 0)"));
    return 0;
}

int main(int argc, char** argv) try {
    let_idle_threads_sleep(argv);
    return run(argc, argv);
} catch (const std::exception& e) { return complain(e); }
