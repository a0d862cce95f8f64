// train_gpt - trains a GPT: options → model → loop → close
//
// The CUDA is in kernels/: one .cu file per operation, with its CPU half beside its GPU half; kernels/ops.h lists them.
// This file is the order of events. gpt/options.h lists the options, gpt/run.h decides what they mean, gpt/model.h is
// the model, gpt/step.h a training step, gpt/saver.h what is saved, gpt/report.h and gpt/log.h what is printed.
#include "gpt/busy.h"
#include "gpt/products.h"
#include "gpt/reference.h"
#include "gpt/report.h"
#include "gpt/run.h"
#include "gpt/run_folder.h"
#include "gpt/run_weights.h"
#include "gpt/saver.h"
#include "gpt/start.h"
#include "gpt/step.h"
#include "gpt/stop_signal.h"

// The objects that the training loop works on.
struct Training {
    Run& run;
    Model& model;
    Optimizer& optimizer;
    Saver& saver;
    TrainState& state;
    Comm& comm;
    Log& log;
    std::unique_ptr<Preferences> preferences;  // null unless --objective dpo
    int64_t skips = 0;                         // skipped steps in a row, up to now

    bool asked_to_stop() const { return comm.any(stop_asked); }  // the same in all processes
    // For the middle of an evaluation. Processes that gather their weights from each other must stop together there,
    // and others stop by themselves.
    bool asked_meanwhile() const { return model.shards->travel() ? asked_to_stop() : stop_asked != 0; }
    bool works_here() const { return comm.first() || model.shards->travel(); }  // takes part in what rank 0 computes
};

// validate(), score() and sample() return false when the run was asked to stop before they had ended.
static bool validate(Training& t) {
    if (!t.run.val) return true;
    const int64_t batches = t.run.eval_batches;
    const Stopwatch watch;
    Busy busy("evaluating, batch", batches);
    const auto go_on = [&](int64_t done) { return busy.done(done), !t.asked_meanwhile(); };
    PreferenceSums pairs;
    if (t.preferences) pairs = mean_preferences(t.model, *t.run.val, batches, *t.preferences, t.comm, go_on);
    const float loss = float(t.preferences ? pairs.loss : t.comm.mean(mean_loss(t.model, *t.run.val, batches, go_on)));
    busy.end();
    if (t.asked_to_stop()) return false;
    if (!std::isfinite(loss))
        give_up(t.run, t.saver, t.comm, t.state.step - t.skips, "the validation loss is not a finite number");
    t.log.eval(t.state.step, t.state.tokens, loss, watch.seconds());
    if (t.preferences) t.log.preferences(t.state.step, pairs.margin, pairs.right);
    return true;
}

static bool score(Training& t) {
    if (t.run.hellaswag.empty()) return true;
    const Stopwatch watch;
    Busy busy("HellaSwag, question", int64_t(t.run.hellaswag.size()));
    const auto go_on = [&](int64_t done) { return busy.done(done), !t.asked_meanwhile(); };
    HellaSwagScore score{};
    if (t.works_here()) score = score_hellaswag(t.model, t.run.hellaswag, go_on);
    busy.end();
    if (t.asked_to_stop()) return false;
    t.log.hellaswag(t.state.step, score.acc, score.acc_norm, score.questions, watch.seconds());
    return true;
}

// The prompt and its continuation, up to where stop() says so.
static std::string sample_text(const Run& run, Model& model, const std::function<bool()>& stop) {
    const Options& o           = run.options;
    const Tokenizer& tokenizer = *run.tokenizer;
    Busy busy("sampling, token", o.sample_tokens);
    int64_t made     = 0;
    std::string text = run.prompt;
    generate(model, run.prompt_ids, o.sample_tokens, 1, Sampling{0.8f, 0, 0.95f, o.seed}, [&](int64_t, int32_t id) {
        if (stop() || model.config.is_end(id)) return false;
        text += tokenizer.text_of(id);
        busy.done(++made);
        return true;
    });
    return text;
}
static bool sample(Training& t) {
    const std::string text = t.works_here() ? sample_text(t.run, t.model, [&] { return t.asked_meanwhile(); }) : "";
    if (t.asked_to_stop()) return false;
    t.log.sample(t.state.step, text);
    return true;
}

// Saves a checkpoint, unless this step is saved already. After a skipped step nothing is saved, because the weights
// that it found may be the reason why it was skipped.
static void save(Training& t) {
    if (t.saver.newest() == t.state.step || t.skips > 0) return;
    t.comm.expect_same([&] { return fingerprint(t.model); }, "the weights");
    const Busy busy("saving");
    t.saver.save(t.state);
}

// Trains from t.state.step on, until the last step or until a process of the run is asked to stop.
static void train(Training& t) {
    const Options& o  = t.run.options;
    TrainState& state = t.state;
    Step steps(t.model, t.optimizer, t.comm, *t.run.train, o.schedule, {o.accumulate, o.document_mask, o.graph},
               t.preferences.get());
    int64_t& step         = state.step;                               // how many steps are done
    const int64_t resumed = o.resume && state.evaluated ? step : -1;  // what was due at this step is done
    const auto due        = [&](int64_t every) {
        return every > 0 && step != resumed && (step == o.steps || step % every == 0);
    };
    const auto saves = [&] {
        return (step > 0 && due(o.save_every)) ||
               std::binary_search(o.steps_to_save.begin(), o.steps_to_save.end(), step);
    };
    for (bool stop = false;; step++) {
        const bool evaluated = !due(o.eval_every) || (!stop && validate(t) && score(t));
        const bool sampled   = !due(o.sample_every) || step == 0 || (evaluated && !stop && sample(t));
        state.evaluated      = evaluated && sampled;
        if (due(o.check_weights)) t.comm.expect_same([&] { return fingerprint(t.model); }, "the weights");
        const bool due_save = saves();
        if (due_save || (step > 0 && (stop || !state.evaluated))) save(t);
        if (due_save) stop |= t.asked_to_stop();  // saving may have taken minutes
        if (step == o.steps || stop || !state.evaluated) break;

        const Stopwatch watch;
        const float rate   = learning_rate(o.schedule, step);
        const StepResult r = steps.run(step, stop_asked);  // batch × context × accumulate × processes tokens
        state.tokens += t.run.tokens_per_step();
        state.position = steps.position();
        if (r.finite()) state.rounded_at = t.optimizer.rounded_at(step + 1);
        t.log.step({step + 1, r.loss, r.norm, rate, watch.seconds(), state.tokens, !r.finite(), r.margin, r.accuracy});

        stop    = r.stop;
        t.skips = r.finite() ? 0 : t.skips + 1;
        if (t.skips > o.max_skips)
            give_up(t.run, t.saver, t.comm, step + 1 - t.skips,
                    count_of(t.skips, "step") + " in a row gave a loss or gradient norm that is not finite");
        t.saver.poll();
        if (r.finite()) t.saver.remove_old();
    }
    t.saver.finish();
    if (t.saver.newest() == o.steps) t.saver.remove_old();
}

// meets: set when the process begins to work together with the others.
static int run(const Ranks& ranks, bool& meets, int argc, char** argv) {
    // Options. Whatever is wrong with them, the model, the data or the machine is found before anything is allocated.
    const Stopwatch since_start;
    Options options;
    Flags flags("train_gpt", "trains GPT-2- and GPT-NeoX-style language models",
                backends() + ", " + Collective::backends());
    list_options(flags, options);
    if (!parse_options(options, flags, argc, argv, ranks.world)) return 0;
    if (options.list_models) return list_models(), expect_printed(), 0;
    if (ranks.rank == 0) end_on_signals();
    Run run(options, flags, ranks);
    if (options.dry_run) return header(run), expect_printed(), 0;
    if (run.finished()) return report_finished(run), expect_printed(), 0;

    // Model. Rank 0 chooses the folder for all processes. run.json is written once the model has memory and weights.
    Busy busy("waiting for the other processes");
    meets = true;
    Comm comm(ranks, run.id(), 600, int(options.timeout));  // waits 10 minutes for the other processes
    comm.fail_together("");                                 // another process may have failed
    comm.agree(run.facts());
    comm.join(run.device.stream());
    const auto lock = choose_folder(options, comm, run.checkpoint);
    comm.attempt([&] { refuse_too_large(run); });
    busy.next("measuring the rate of products");
    peak_flops(run.device, run.dtype);  // while there is room for it
    Model model(run.config, run.dtype, run.shape(), run.device, comm.group(), run.sharding());
    model.dropout        = {model.shape.dropout, Random(options.seed, "dropout").key()};
    const auto optimizer = make_optimizer(model, options.optimizer);
    run.reserve_scratch();
    busy.next("setting the weights");
    FirstWeights first = set_first_weights(run, model, *optimizer);
    choose_products(run);
    write_run_json(run);
    busy.end();

    // Loop.
    Log log(log_settings(run, first.state));
    header(run);
    report_start(log, run, first, since_start.seconds());
    stop_on_signals(comm.first());
    const DType saved_dtype = first.state.weights_dtype;
    Saver saver(save_settings(run, log), model, *optimizer, saved_dtype, run.tokenizer_files, comm);
    Training training{run, model, *optimizer, saver, first.state, comm, log, make_preferences(run, model, comm)};
    if (lock) lock->begin();
    train(training);

    // Close.
    const std::string weights = fingerprint(model);
    comm.expect_same(weights, "the weights");
    comm.finish();
    report_end(log, run, first.state, weights);
    return 0;
}

int main(int argc, char** argv) {
    let_idle_threads_sleep(argv);
    return run_main([&] {
        const Ranks ranks = ranks_from_environment();
        silence_unless_first(ranks);
        bool meets = false;
        try {
            return run(ranks, meets, argc, argv);
        } catch (const std::exception& e) {
            if (ranks.world == 1 || meets) throw;
            end_before_meeting(ranks, Run::id(), e);
        }
    });
}
