// report.h - what train_gpt prints before and after training: the list of presets, the header, the start and the end
#pragma once
#include <sys/resource.h>

#include <string>

#include "gpt/log.h"
#include "gpt/run.h"
#include "gpt/run_weights.h"
#include "kernels/measure.h"

inline void list_models() {
    const char* row = "{:<14} {:<8} {:>6} {:>5} {:>5} {:>7} {:>5} {:>15} {:>8} {:>11} {:>7} {:>5} {:>5}  {}\n";
    fmt::print(fmt::runtime(row), "model", "family", "layers", "width", "heads", "context", "vocab", "parameters",
               "rate", "tokens/step", "warm-up", "decay", "beta2", "init");
    for (const Preset& p : presets()) {
        const Config c  = config_of(p);
        const Recipe& r = p.recipe;
        fmt::print(fmt::runtime(row), p.name, c.model_type, p.layers, p.width, p.heads, p.context, p.vocab,
                   grouped(count_params(c)), fmt::format("{:.2e}", r.learning_rate), grouped(r.tokens_per_step),
                   r.published_steps ? grouped(r.warmup_steps) : "2 %", r.weight_decay, r.beta2,
                   c.initial_weights == InitialWeights::gpt2 ? "gpt2" : "small/wang");
    }
}

inline std::string describe(const MemoryPlan& p) {
    const std::string program = p.program ? " · program " + gibibytes(p.program) : "";
    const std::string copies  = p.copies ? " · copies for saving " + gibibytes(p.copies) : "";
    const std::string host    = p.host ? " · in the host's memory " + gibibytes(p.host) : "";
    return fmt::format("weights {} · gradients {} · optimizer {} · activations {} · buffers {}{}{} · total {}{}",
                       gibibytes(p.weights), gibibytes(p.gradients), gibibytes(p.optimizer), gibibytes(p.activations),
                       gibibytes(p.buffers), copies, program, gibibytes(p.total()), host);
}

inline std::string describe(const Schedule& s) {
    std::string text = fmt::format("{}", s.peak());
    if (s.start) text = fmt::format("from {} at step {}: {}", s.start_rate, s.start, s.peak());
    if (s.warmup_steps) text += fmt::format(" after {} of warm-up", count_of(s.warmup_steps, "step"));
    switch (s.kind) {
        case Schedule::Kind::cosine: return text + fmt::format(", then cosine to {}", s.final_rate);
        case Schedule::Kind::linear: return text + fmt::format(", then linear to {}", s.final_rate);
        case Schedule::Kind::wsd:
            return text + fmt::format(", then constant, its last fifth linear, to {}", s.final_rate);
        case Schedule::Kind::constant: break;
    }
    return text + ", then constant";
}

// Returns the options for the largest batch that fits into the free memory. When not even one sequence fits, it tries
// again with all activations recomputed, then with more of the state cut into slices, then with more GPUs.
inline std::string room(const Run& run) {
    const ShardLevel now = run.options.shard;
    const int world      = run.ranks.world;
    const auto largest   = [&](Recompute recompute, ShardLevel shard, int of_world) {
        return largest_batch(run.free_bytes,
                               [&](int64_t b) { return run.plan_with(b, recompute, shard, of_world).total(); });
    };
    if (const int64_t b = largest(run.options.recompute, now, world)) return fmt::format("--batch {}", b);
    if (const int64_t b = largest(Recompute::block, now, world)) return fmt::format("--recompute block --batch {}", b);
    for (const auto& [name, level] : shard_levels())
        if (const int64_t b = world > 1 && level > now ? largest(Recompute::block, level, world) : 0)
            return fmt::format("--shard {} --recompute block --batch {}", name, b);
    if (run.machine() == Machine::cuda)
        for (int more = 2; more <= 1 << 16; more *= 2)
            if (const int64_t b = more > world ? largest(Recompute::block, ShardLevel::weights, more) : 0)
                return fmt::format("{} GPUs with --shard weights --recompute block --batch {}", more, b);
    return "no --batch; a smaller --model or --context, or a device with more memory";
}

inline void refuse_too_large(const Run& run) {
    CHECK_RUN(run.plan.total() <= run.free_bytes, "out of memory before the start: {}; {} has {} free, room for {}",
              describe(run.plan), run.device.name(), gibibytes(run.free_bytes), room(run));
}

// Says which lower level of --shard would take less memory, or "". The tables and a block are whole in buffers beside
// the slices, which is more than everything where the tables are nearly the whole model.
inline std::string cheaper_shard(const Run& run) {
    const Options& o = run.options;
    const auto taken = [&](ShardLevel level) {
        const MemoryPlan plan = run.plan_with(o.batch, o.recompute, level, run.ranks.world);
        return plan.total() - plan.program;
    };
    std::string name;
    int64_t least = taken(o.shard);
    for (const auto& [lower, level] : shard_levels())
        if (level < o.shard && taken(level) < least) name = lower, least = taken(level);
    return name;
}

// What a step takes on the GPUs that the run is planned for.
inline ScaledStep predicted_step(const Run& run) {
    const Options& o = run.options;
    return predict_step(run.config, run.shape(), run.dtype, o.accumulate, o.optimizer.kind, o.graph,
                        {run.ranks.world, o.shard, 1, 1, o.wire, 1, o.optimizer.in_host_memory}, run.cluster());
}
inline std::string seconds_text(double seconds) {
    return seconds < 1 ? fmt::format("{:.1f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

// Prints how much data there is, and what packing made of it.
inline void print_data(const Run& run) {
    const int64_t context = run.options.context;
    if (run.train || run.val)
        say("data", "train {} · val {}", run.train ? grouped(run.train->tokens()) + " tokens" : "none",
            run.val ? grouped(run.val->tokens()) : "none");
    if (!run.train || !run.train->masked()) return;
    const Packing& p   = run.train->packing();
    const double slots = double(p.sequences * context);
    say("", "{} {} in {} {} · {:.1f} % of the tokens count in the loss · {:.1f} % are padding", grouped(p.documents),
        plural(p.documents, "document"), grouped(p.sequences), plural(p.sequences, "sequence"),
        100 * double(p.counted) / slots, 100 * (1 - double(p.tokens - p.sequences) / slots));
    if (p.cut)
        say("", "{} longer than the context of {} were cut, which left out {} {}; --context {} has room for all",
            count_of(p.cut, "document"), context, grouped(p.cut_tokens), plural(p.cut_tokens, "token"), p.longest - 1);
    if (p.left_out) say("", "{} in which nothing counts were left out", count_of(p.left_out, "document"));
    if (p.too_long)
        say("", "{} longer than the context of {} were left out; --context {} has room for all",
            count_of(p.too_long, "preference"), context, p.longest - 1);
}

// Prints what memory the run takes and leaves.
inline void print_memory(const Run& run) {
    const Options& o   = run.options;
    const bool several = run.ranks.world > 1;
    const int64_t rows = logits_rows(run.config, run.shape(), run.dtype);
    say("memory", "{}{}", describe(run.plan), several ? " on each" : "");
    if (const std::string level = cheaper_shard(run); several && !level.empty())
        say("",
            "--shard {} would take less: most of this model are its tables, which --shard {} has in slices and whole",
            level, option_value::show(o.shard, shard_levels()));
    say("", "logits of {} at a time: {:.1f} MiB, at most --logits-memory {} MiB or 64 rows", count_of(rows, "row"),
        double(rows * run.config.padded_vocab() * size_of(run.dtype)) / (1 << 20), int64_t(o.logits_memory));
    say("", "{} are free{} · room for {}", gibibytes(run.free_bytes),
        run.machine() == Machine::cuda
            ? fmt::format(", the CUDA context excluded (it takes about {})", gibibytes(cuda_context_bytes))
            : "",
        room(run));
}

// Prints what goes between a GPU and its host in a step whose optimizer's state is in the host's memory.
inline void print_offload(const Run& run, const ScaledStep& step) {
    const HostUpdate& host = step.host;
    say("offload",
        "each GPU sends {}B a step to the host, where the CPU moves {}B, and gets {}B back, in {}, of which {} are not "
        "hidden behind {}",
        rounded(host.to_host + host.muon_state, " "), rounded(host.by_cpu, " "),
        rounded(host.to_gpu + host.muon_state, " "),
        seconds_text(host.seconds(*run.card) + host.muon_seconds(*run.card)),
        seconds_text(step.waits + host.muon_seconds(*run.card)),
        run.options.graph ? "kernels, because a CUDA graph ends with them" : "the next forward pass");
    say("", "assumed are {:.0f} GB/s each way by PCIe, and {:.0f} GB/s of the host's memory for each GPU",
        run.card->pcie / 1e9, host_memory_rate / 1e9);
}

// Prints how long a dry run would take: on a GPU by the time model, on a CPU at least. `steps` is the length of the
// run, or 0 when it is not known.
inline void print_predicted_time(const Run& run, double flops_per_step, int64_t steps) {
    const int world = run.ranks.world;
    if (run.card) {
        const ScaledStep step = predicted_step(run);
        const double seconds = step.seconds(), all = seconds * double(steps);
        say("time", "{} a step (predicted) · {} tokens/s · {:.0f} % of the rate of products{}{}", seconds_text(seconds),
            rounded(double(run.tokens_per_step()) / seconds),
            100 * flops_per_step / world / seconds / run.card->product_rate(run.dtype),
            steps ? " · " + duration(all) + " in all" : "",
            steps && all * world >= 3600 ? ", " + rounded(all * world / 3600) + " GPU-hours" : "");
        if (run.options.optimizer.in_host_memory) print_offload(run, step);
        if (world == 1) return;
        const Cluster cluster = run.cluster();
        say("network", "{} · each GPU sends {}B a step in {}, of which {} are not hidden behind kernels",
            cluster.one_node(world)
                ? "all GPUs in one server"
                : fmt::format("{} GPUs in a server, {} between servers", cluster.gpus_per_node, cluster.link->name),
            rounded(step.sent, " "), seconds_text(step.wire), seconds_text(step.exposed));
    } else if (run.machine() == Machine::cpu && steps) {
        const double peak = peak_flops(run.device, run.dtype);
        say("time", "at least {} in all, at the {:.0f} GFLOP/s that a large product has here",
            duration(flops_per_step * double(steps) / world / peak), peak / 1e9);
    }
}

// Prints what is trained, on which device and data, and at what cost, with the command that repeats the run.
inline void header(const Run& run) {
    const Options& o     = run.options;
    const Config& c      = run.config;
    const Device& dev    = run.device;
    const int world      = run.ranks.world;
    const bool gpu       = run.machine() == Machine::cuda;
    const int64_t tokens = run.tokens_per_step();
    const double flops   = train_flops_per_token(c, o.context);

    say("run", "{} · commit {} · seed {}", o.dry_run ? "(dry run)" : run.folder(), GPT_COMMIT, o.seed);
    say("", "{}", run.flags.command());
    say("model", "{} · {} × {} wide × {} · context {} · vocabulary {} · {} parameters", c.name,
        count_of(c.layers, "layer"), c.width, count_of(c.heads, "head"), o.context, c.vocab, grouped(count_params(c)));
    say("device", "{}{}{}{} · {}{}", world > 1 ? fmt::format("{} × ", world) : "",
        o.gpu.is_auto() ? dev.name() : run.card->driver_name, gpu ? "" : " · " + count_of(dev.threads(), "thread"),
        world > 1 && o.world.is_auto() ? " · " + Collective::library(run.machine()) : "", name_of(run.dtype),
        o.dry_run ? ""
                  : fmt::format(" · {:.0f} GFLOP/s measured for a large product, which is 100 % of peak",
                                peak_flops(dev, run.dtype) / 1e9));
    if (o.gpu.is_auto() && !dev.no_gpu().empty()) say("", "{}", dev.no_gpu());
    print_data(run);
    const bool length_known = run.train || o.steps > 1;  // without data, a dry run knows it from the options alone
    say("batch", "{} × {} × {} micro{} = {} {} a step{}", o.batch, o.context, o.accumulate,
        world > 1 ? fmt::format(" × {} processes", world) : "", grouped(tokens), plural(tokens, "token"),
        length_known ? fmt::format(" · {} {} = {} {}", grouped(o.steps), plural(o.steps, "step"),
                                   rounded(double(o.steps) * double(tokens)), plural(o.steps * tokens, "token"))
                     : "");
    say("rate", "{}{}", describe(o.schedule), row_of(o.optimizer.kind).other_rates(o.optimizer));
    const DropoutRates drop = run.dropout();
    if (drop.any() || o.dropout.is_auto())
        say("dropout", "{} of the embedding, {} of attention's probabilities, {} of both branches of a block",
            drop.embedding, drop.attention, drop.residual);
    print_memory(run);
    say("compute", "{}FLOP a token · {}FLOP a step{}", rounded(flops, " "), rounded(flops * double(tokens), " "),
        length_known ? fmt::format(" · {}FLOP in all", rounded(flops * double(tokens) * double(o.steps), " ")) : "");
    if (o.dry_run) print_predicted_time(run, flops * double(tokens), length_known ? int64_t(o.steps) : 0);
}

inline LogSettings log_settings(const Run& run, const TrainState& state) {
    const Options& o = run.options;
    LogSettings set;
    set.folder          = run.ranks.rank == 0 ? run.folder() : "";
    set.title           = run.config.name;
    set.steps           = o.steps;
    set.every           = o.log_every;
    set.resumed_at      = o.resume ? state.step : -1;
    set.evaluates_again = !state.evaluated;
    set.tokens_per_step = run.tokens_per_step();
    set.preferences     = run.is_dpo();
    const double flops  = train_flops_per_token(run.config, o.context) * double(set.tokens_per_step) / run.ranks.world;
    set.seconds_at_peak = flops / peak_flops(run.device, run.dtype);
    return set;
}

// Prints how the run begins, after the header, and writes its record to the log.
inline void report_start(Log& log, const Run& run, const FirstWeights& first, double seconds) {
    const Options& o     = run.options;
    const int64_t step   = first.state.step;
    const Recipe& recipe = run.recipe;
    say("start", "{} · ready in {:.2f} s", first.origin, seconds);
    if (!run.schedule_change.empty()) say("", "{}", run.schedule_change);
    if (run.preset && recipe.published_steps && recipe.tokens_per_step != run.tokens_per_step())
        say("", "{} was published with {} tokens a step, which --tokens-per-step can keep", o.model,
            grouped(recipe.tokens_per_step));
    if (run.trained_weights && !run.config.learned_positions && o.context > run.made_for)
        log.warn(step, fmt::format("--context {} is more than the {} that {} was made for; its checkpoints say {}",
                                   o.context, run.made_for, run.config.name, run.config.context));
    log.record({{"event", "start"},
                {"step", step},
                {"command", run.flags.command()},
                {"model", run.config.name},
                {"parameters", count_params(run.config)},
                {"dtype", name_of(run.dtype)},
                {"device", run.device.name()},
                {"world", run.ranks.world},
                {"threads", run.device.threads()},
                {"peak_flops", peak_flops(run.device, run.dtype)},
                {"planned_bytes", run.plan.total()},
                {"startup_s", seconds}});
    log.columns();
}

inline SaveSettings save_settings(const Run& run, Log& log) {
    const Options& o = run.options;
    return {run.folder(),
            o.save_async,
            o.keep,
            o.steps_to_save,
            run.checkpoint.empty() ? -1 : run.saved.step,
            [&](int64_t step, const std::string& folder) { log.save(step, folder); }};
}

// Ends a run whose loss is no longer finite. The weights are bad since `step`, so checkpoints from there on are, too.
[[noreturn]] inline void give_up(const Run& run, const Saver& saver, const Comm& comm, int64_t step,
                                 const std::string& why) {
    saver.wait();
    if (!comm.first()) comm.leave_it_to_first(why);  // all processes come to the same conclusion
    const std::string good = retract_checkpoints(run.folder(), step);
    throw RunError(fmt::format("{}; {}; try a lower --learning-rate", why,
                               good.empty() ? "there is no good checkpoint of this run"
                                            : "the last good checkpoint is " + good + ", from which --resume goes on"));
}

// Returns the most memory that the run has held, in bytes. On a CPU it is the peak of the process. On a GPU nothing is
// freed before the end, so it is what is allocated now.
inline int64_t peak_bytes(const Run& run) {
    if (run.device.where() == Machine::cuda) return run.free_bytes - run.device.free_bytes();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t(usage.ru_maxrss) * 1024;
}

// The command that continues a run, for any working folder.
inline std::string resume_command(const Run& run) {
    const fs::path folder = fs::absolute(run.folder()).lexically_normal();
    return fmt::format("{} --out {} --resume", option_value::quoted(run.options.program),
                       option_value::quoted(folder.string()));
}

// Prints how the run ended, and writes its record to the log.
inline void report_end(Log& log, const Run& run, const TrainState& state, const std::string& weights) {
    const Options& o   = run.options;
    const int64_t peak = peak_bytes(run);
    log.record({{"event", "end"},
                {"step", state.step},
                {"steps", int64_t(o.steps)},  // of the whole run
                {"tokens", state.tokens},
                {"fingerprint", weights},
                {"peak_bytes", peak}});
    const std::string done = count_of(state.step, "step");
    const bool saved = is_complete(checkpoint_path(run.folder(), state.step)), all = state.step == o.steps;
    const std::string unsaved =
        all && o.save_every == 0 ? "not saved (--save-every 0)" : "not saved, because the last step was skipped";
    if (all && state.evaluated)
        log.say("\ndone", fmt::format("{} · weights {} · peak memory {} · {}", done, weights, gibibytes(peak),
                                      saved ? run.folder() + "/checkpoints/latest" : unsaved));
    else
        log.say("\nstopped",
                fmt::format("after {}{}; continue{} with: {}", done, saved || state.step == 0 ? "" : ", " + unsaved,
                            run.ranks.world > 1 ? " under the same launcher" : "", resume_command(run)));
}

// Prints that there is nothing left to do, for --resume of a run that has done all its steps.
inline void report_finished(const Run& run) {
    say("done", "the run in {} has done its {} already; this trains it longer: {} --steps {}", run.folder(),
        count_of(run.saved.step, "step"), resume_command(run), 2 * run.saved.step);
}
