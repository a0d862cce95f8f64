// train_gpt - trains a GPT: options → model → loop → close
//
// The CUDA is in kernels/: one .cu file per operation, with its CPU half beside its GPU half; kernels/ops.h lists them.
// This file is the order of events. gpt/options.h lists the options, gpt/run.h decides what they mean, gpt/model.h is
// the model, gpt/step.h a training step, gpt/checkpoint.h what is saved, gpt/report.h and gpt/log.h what is printed.
#include "gpt/report.h"
#include "gpt/run.h"
#include "gpt/start.h"
#include "gpt/step.h"

// The objects that the training loop works on.
struct Training {
    Run& run;
    Model& model;
    Optimizer& optimizer;
    TrainState& state;
    Comm& comm;
    Log& log;
};

static void evaluate(Training& t) {
    if (t.run.val) {
        const Stopwatch watch;
        const float loss = float(t.comm.mean(mean_loss(t.model, *t.run.val, t.run.options.eval_batches)));
        t.log.eval(t.state.step, t.state.tokens, loss, watch.seconds());
    }
    if (!t.run.hellaswag.empty() && t.comm.first()) {
        const Stopwatch watch;
        const HellaSwagScore score = score_hellaswag(t.model, t.run.hellaswag);
        t.log.hellaswag(t.state.step, score.acc, score.acc_norm, score.questions, watch.seconds());
    }
}

static void sample(Training& t) {
    if (t.comm.first()) t.log.sample(t.state.step, write_text(t.run, t.model));
}

static void save(Training& t) {
    const Options& o = t.run.options;
    t.comm.expect_same([&] { return fingerprint(t.model); }, "the weights");
    if (!t.comm.first()) return;
    const std::string tokenizer = o.tokenizer.value_or("");
    t.log.save(t.state.step, save_checkpoint(o.out, t.state, t.model, t.optimizer, tokenizer, o.keep));
}

// Trains from t.state.step on, until the last step or until a process of the run is asked to stop.
static void train(Training& t) {
    const Options& o = t.run.options;
    Step steps(t.model, t.optimizer, t.comm, *t.run.train, o.schedule, {o.accumulate, o.document_mask, o.graph});
    int64_t& step         = t.state.step;          // how many steps are done
    const int64_t resumed = o.resume ? step : -1;  // the run did what was due at this step before it stopped
    int64_t skips         = 0;                     // skipped steps in a row
    const auto due        = [&](int64_t every) {
        return every > 0 && step != resumed && (step == o.steps || step % every == 0);
    };
    for (bool stop = false;; step++) {
        if (due(o.eval_every)) evaluate(t);
        if (due(o.sample_every) && step > 0) sample(t);
        if ((due(o.save_every) || stop) && step > 0) save(t);
        if (step == o.steps || stop) break;

        const Stopwatch watch;
        const float rate   = learning_rate(o.schedule, step);
        const StepResult r = steps.run(step, stop_asked);  // batch × context × accumulate × processes tokens
        t.state.tokens += t.run.tokens_per_step();
        t.state.position = steps.position();
        if (r.finite()) t.state.rounded_at = t.optimizer.rounded_at(step + 1);
        t.log.step({step + 1, r.loss, r.norm, rate, watch.seconds(), t.state.tokens, !r.finite()});

        stop  = r.stop;
        skips = r.finite() ? 0 : skips + 1;
        if (skips > o.max_skips) give_up(t.run, skips);
    }
}

static int run(int argc, char** argv) {
    // Options. Whatever is wrong with them, the model, the data or the machine is found before anything is allocated.
    const Stopwatch since_start;
    const Ranks ranks = ranks_from_environment();
    silence_unless_first(ranks);
    Options options;
    Flags flags("train_gpt", "trains GPT-2- and GPT-NeoX-style language models", backends());
    list_options(flags, options);
    if (!parse_options(options, flags, argc, argv, ranks.world)) return 0;
    if (options.list_models) return list_models(), 0;
    Run run(options, flags, ranks);
    if (options.dry_run) return header(run), 0;

    // Model. Rank 0 chooses the folder for all processes, which is created once the model has its memory and weights.
    Comm comm(ranks, run.id());  // waits for the other processes
    choose_folder(options, comm);
    refuse_too_large(run);
    peak_flops(run.device, run.dtype);  // measured while there is room for it
    Model model(run.config, run.dtype, run.shape(), run.device);
    const auto optimizer = make_optimizer(model, options.optimizer);
    comm.join_gpus(model.stream);
    run.reserve_scratch();
    FirstWeights first = set_first_weights(run, model, *optimizer);
    open_folder(run);

    // Loop.
    Log log(log_settings(run, first.state));
    header(run);
    report_start(log, run, first, since_start.seconds());
    stop_on_signals();
    Training training{run, model, *optimizer, first.state, comm, log};
    train(training);

    // Close.
    const std::string weights = fingerprint(model);
    comm.expect_same(weights, "the weights");
    comm.finish();
    report_end(log, run, first.state, weights);
    return 0;
}

int main(int argc, char** argv) try {
    let_idle_threads_sleep(argv);
    return run(argc, argv);
} catch (const std::exception& e) { return complain(e); }
