// run.h - a run of train_gpt: its options with their values, its model, its data, its device and its memory
//
// Building a Run decides every option, opens the device and the data, and plans the memory. It allocates nothing of the
// model, so that whatever is wrong with a command is found before anything is written.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer.h"
#include "gpt/busy.h"
#include "gpt/checkpoint.h"
#include "gpt/comm.h"
#include "gpt/data_facts.h"
#include "gpt/evaluation.h"
#include "gpt/machine.h"
#include "gpt/model_folder.h"
#include "gpt/new_tokens.h"
#include "gpt/options.h"
#include "gpt/plan.h"
#include "gpt/resolve.h"

struct Run {
    Options& options;    // every Auto that the model, the machine or the data decides has its value
    const Flags& flags;  // the list that parsed `options`
    const Ranks ranks;
    const std::string checkpoint;  // where a resumed run goes on; "" for a new run, or one without a checkpoint yet
    const TrainState saved;        // the state in that checkpoint
    const Preset* const preset;    // null for a model folder
    const std::string home;        // the folder that the model is read from; "" for a preset
    const bool trained_weights;    // the model folder has weights, from which training starts
    int64_t made_for = 0;          // the context that the preset or the model folder states, before --context raises it
    Config config;
    Recipe recipe;
    const Device device;
    const Card* const card;  // the GPU, when time_model.h knows it: that of --gpu, or else the device; or null
    const DType dtype;
    std::unique_ptr<Tokenizer> tokenizer;  // null when there is none
    TokenizerFiles tokenizer_files;        // go into checkpoints; empty when there is none
    NewTokens new_tokens;                  // of --add-tokens
    DataFacts data;                        // of the training and the validation data
    std::unique_ptr<Loader> train, val;    // train is null only in a dry run; val when there is no validation data
    std::vector<Question> hellaswag;
    // With --sample-every, the text with which samples begin, and its ids: --prompt, else the end-of-text token.
    std::string prompt;
    std::vector<int32_t> prompt_ids;
    std::string schedule_change;  // says what the learning rate does where a resumed run gets another schedule
    MemoryPlan plan;
    int64_t eval_batches = 0;  // --eval-batches, or all batches of the validation data where those are fewer
    // The memory that the plan may use: what was free on the device before anything was allocated, or what a card of
    // --gpu leaves beside its context.
    int64_t free_bytes;

    // started: the processes that were started; a plan may be for more of them.
    Run(Options& o, const Flags& flags, const Ranks& started);
    Run(const Run&)            = delete;
    Run& operator=(const Run&) = delete;

    std::string folder() const { return options.out; }
    // Where the run would train: on the device, unless --gpu names another.
    Machine machine() const { return options.gpu.is_auto() ? device.where() : Machine::cuda; }
    // At which rates training drops elements.
    DropoutRates dropout() const {
        return options.dropout.is_auto() || options.dropout > 0 ? config.dropout : DropoutRates{};
    }
    bool is_dpo() const { return options.objective == Objective::dpo; }
    bool finished() const { return !checkpoint.empty() && saved.step == options.steps && saved.evaluated; }
    BatchShape shape() const { return shape_with(options.batch, options.recompute); }
    BatchShape shape_with(int64_t batch, Recompute recompute) const {
        return {batch, options.context, true, recompute, options.logits_memory, dropout()};
    }
    Sharding sharding() const {
        return {options.shard, ranks.rank, ranks.world, row_of(options.optimizer.kind).whole_matrices, options.wire};
    }
    // The GPUs and the network of a plan.
    Cluster cluster() const {
        const bool one = ranks.world <= options.gpus_per_node;
        return {card, options.link.value_or(find_link(one ? "nvlink" : "400Gb")), int(options.gpus_per_node)};
    }
    int64_t tokens_per_step() const { return tokens_of_step(options, ranks.world); }
    // All processes of a launch have the same number. agree() then compares what they are about to do.
    static uint64_t id() { return hash64(launch_from_environment()); }
    // What all processes must have in common, in words that an error can show.
    Comm::Facts facts() const;
    // The memory that another batch and another level of recomputation would take, in the same or another world.
    MemoryPlan plan_with(int64_t batch, Recompute recompute) const {
        return plan_with(batch, recompute, options.shard, ranks.world);
    }
    MemoryPlan plan_with(int64_t batch, Recompute recompute, ShardLevel shard, int world) const {
        const Options& o = options;
        RunSize size{config, dtype, shape_with(batch, recompute)};
        size.optimizer     = o.optimizer.kind;
        size.micro_steps   = o.accumulate;
        size.offload       = o.optimizer.in_host_memory;
        size.save_async    = o.save_async;
        size.weights_dtype = o.save_dtype.value_or(dtype);
        size.documents     = o.document_mask;
        size.shard         = shard;
        size.world         = world;
        size.wire          = o.wire;
        size.masked        = data.masked;
        size.sample_tokens =
            o.sample_every ? int64_t(o.prompt.size()) + 1 + std::min(o.sample_tokens, config.context) : 0;
        return plan_memory(size, machine());
    }
    // Reserves the scratch memory of a step's ops. Call it before anything else is queued on a GPU.
    void reserve_scratch() const {
        if (device.where() == Machine::cuda) device.reserve_scratch(scratch_bytes(config, shape(), dtype));
    }

    // Batches of a pattern's shards in the order of the files, all of them for this process.
    std::unique_ptr<Loader> load_in_order(const std::string& pattern) const { return load(pattern, false, {0, 1}); }

  private:
    std::unique_ptr<Loader> load(const std::string& pattern, bool shuffle, const Ranks& among) const {
        return std::make_unique<Loader>(LoaderSettings{
            pattern, options.batch, options.context, config.vocab, options.seed, among.rank, among.world, shuffle,
            options.document_mask ? document_token() : -1, is_dpo(), shuffle && options.sequences});
    }
    // The token in front of each document. A tokenizer may name another one, such as the end of a message.
    int64_t document_token() const { return data.separator >= 0 ? data.separator : config.eot; }
    std::string find_home() const;
    std::string tokenizer_file() const;
    Config read_model();
    void find_files();
    void read_tokenizer();
    void read_data_facts();
    void refuse_other_tokenizer(const std::string& pattern) const;
    void read_data();
    void encode_prompt();
    void refuse_world() const;
    void choose_memory();
    void refuse_other_run() const;
    void go_on_with_schedule();
};

// A run folder is enough to resume: what --model and --tokenizer named when the run began is read from the newest
// checkpoint when it is gone.
inline std::string Run::find_home() const {
    const bool as_before = !checkpoint.empty() && !options.earlier.gives("--model");
    if (as_before && !fs::exists(options.model + "/config.json")) return checkpoint;
    return options.model = model_folder(options.model);
}
inline std::string Run::tokenizer_file() const {
    const std::string file = options.tokenizer.value_or(""), saved_file = checkpoint + "/tokenizer.json";
    const bool gone = !file.empty() && !options.earlier.gives("--tokenizer") && !fs::exists(file);
    return gone && !checkpoint.empty() && fs::exists(saved_file) ? saved_file : file;
}

// A model with random weights may have sizes of its own, and gets positions for the whole --context. A resumed run
// keeps the number that it was started with. Rotary positions do not end, so the model states the longest context that
// it was trained with, which other programs make room for.
inline Config Run::read_model() {
    const Busy busy("reading the model");
    const Sizes& sizes = options.sizes;
    CHECK(!trained_weights || !sizes.are_given() || !checkpoint.empty(),
          "--layers, --width, --heads and --vocab are for random weights, but {} has trained ones", options.model);
    Config c = preset ? config_of(*preset, sizes) : read_config(home, sizes);
    if (!preset) c.name = fs::path(options.model).lexically_normal().string();
    const int64_t asked   = options.context.value_or(0),
                  resumed = checkpoint.empty() ? 0 : read_config(checkpoint).context;
    made_for              = c.context;
    if (!c.learned_positions)
        c.context = std::max({c.context, asked, resumed});
    else if (!trained_weights)
        c.context = std::max(c.context, resumed ? resumed : asked);
    if (!options.activation.is_auto()) set_activation(c, options.activation, "--activation");
    // The rates that a model was trained with are written with it.
    const float rate = options.dropout.value_or(0);
    if (rate > 0) c.dropout = {rate, rate, rate};
    for (const float r : {c.dropout.embedding, c.dropout.attention, c.dropout.residual})
        CHECK(!options.dropout.is_auto() || (r >= 0 && r < 1),
              "--dropout auto: {} has a rate of {}, expected 0 or more and less than 1; --dropout X gives another",
              c.name, r);
    return c;
}

// Finds the quick-start text when no data was asked for, and a tokenizer that lies beside the model or the data.
inline void Run::find_files() {
    Options& o              = options;
    const std::string texts = "data/sets/austen/";
    if (o.train_data.is_auto() && o.model == "quickstart") {
        CHECK(fs::exists(texts + "austen_train_000000.bin"),
              "no --train-data, and the quick-start text is not prepared; `make quickstart` prepares it and trains");
        o.train_data = texts + "austen_train_*.bin";
        o.val_data.decide(texts + "austen_val_*.bin");
    }
    CHECK(!o.train_data.is_auto() || o.dry_run,
          "--train-data is missing: token shards, such as --train-data 'data/stories_train_*.bin'");
    if (!preset) find_tokenizer(o.tokenizer, home);
    find_tokenizer(o.tokenizer, fs::path(o.train_data.value_or("")).parent_path());
}

inline void Run::refuse_world() const {
    if (ranks.world == 1) return;
    const std::string obstacle = options.dry_run ? "" : Collective::obstacle(device.where());
    CHECK(obstacle.empty(), "{} processes: {}; or start one process", ranks.world, obstacle);
}

inline Comm::Facts Run::facts() const {
    Comm::Facts all = {
        {"commit", GPT_COMMIT},
        {"build", flags.version()},
        {"command", flags.options()},
        {"model", fmt::format("{}, {} parameters", known_fields(config, dtype).dump(), count_params(config))},
        {"training data", train ? train->fingerprint() : ""},
        {"validation data", val ? val->fingerprint() : ""},
        {"checkpoint", checkpoint.empty() ? "none" : fmt::format("{}, step {}", checkpoint, saved.step)},
        {"step", count_of(tokens_per_step(), "token")}};
    return all;
}

// Plans the memory. Many rows of logits at a time make the products of the head faster on a GPU, where the gradient of
// the head's weights is read and written once for each chunk. More than a gigabyte gains nothing on an H100.
inline void Run::choose_memory() {
    const bool decided = !options.logits_memory.is_auto();
    if (!decided) options.logits_memory = machine() == Machine::cuda ? 1024 : 64;
    plan = plan_with(options.batch, options.recompute);
    while (!decided && options.logits_memory > 64 && plan.total() > free_bytes) {
        options.logits_memory = options.logits_memory / 2;
        plan                  = plan_with(options.batch, options.recompute);
    }
}

// Reads the tokenizer, which knows the id that begins a document. A preset gets a vocabulary for its ids, unless its
// own has room for them and at most 511 rows more: published models pad theirs by up to 411.
inline void Run::read_tokenizer() {
    const Busy busy("reading the tokenizer");
    Options& o             = options;
    const std::string file = tokenizer_file();
    if (file.empty()) return;
    tokenizer         = load_tokenizer(file);
    tokenizer_files   = read_tokenizer_files(file);
    const int64_t ids = tokenizer->vocab_size();
    const bool suits  = ids <= config.vocab && config.vocab - ids < 512;
    if (o.add_tokens) {
        CHECK(trained_weights,
              "--add-tokens is for trained weights; a model with random weights has the tokenizer's tokens");
        const std::string own = tokenizer_in(home);
        const auto theirs     = own.empty() ? nullptr : std::make_unique<Tokenizer>(Tokenizer::load(own));
        new_tokens            = add_tokens(config, theirs.get(), *tokenizer, file);
    }
    if (preset && !o.resume && !suits && o.sizes.vocab.is_auto()) {
        config.vocab = o.sizes.vocab.decide(round_up(ids, 64));
        if (config.eot >= config.vocab) config.bos = config.eot = -1;
    }
    const bool may_add = trained_weights && !o.add_tokens && !tokenizer_in(home).empty();
    use_end_token(config, *tokenizer, file,
                  may_add ? fmt::format("; --tokenizer {} --add-tokens gives the model the others", file) : "");
    if (tokenizer->eot() >= 0) config.eot = tokenizer->eot();
    if (preset || config.bos < 0) config.bos = config.eot;
}

// The ids of shards mean nothing to a model with another tokenizer than their summary names.
inline void Run::refuse_other_tokenizer(const std::string& pattern) const {
    if (!tokenizer || options.trust_data) return;
    for (const std::string& path : summaries_of(pattern)) {
        const Fields summary(path);
        const std::string theirs = summary.text("tokenizer_fingerprint", "");
        CHECK(theirs.empty() || theirs == tokenizer->fingerprint(),
              "{}: the shards were made with {}, which is not the same tokenizer as {}\n"
              "    ./tokenize --tokenizer {} makes shards for this model; --trust-data trains on these{}",
              path, summary.text("tokenizer", "another tokenizer"), options.tokenizer, options.tokenizer,
              summary.has("chat") && !options.add_tokens ? "\n    if tokenize --add-tokens DIR made them, --tokenizer "
                                                           "DIR --add-tokens gives the model the tokens"
                                                         : "");
    }
}

// Conversations are packed, so attention must not cross them. The model's folder then says how they are written.
inline void Run::read_data_facts() {
    const Busy busy("reading the data");
    for (const Auto<std::string>& pattern : {options.train_data, options.val_data})
        if (!pattern.is_auto()) {
            refuse_other_tokenizer(pattern);
            data.read(pattern);
        }
    if (!tokenizer && !options.resume && !options.train_data.is_auto())
        for (const std::string& path : summaries_of(options.train_data))
            if (const std::string theirs = Fields(path).text("tokenizer", "");
                !theirs.empty() && !(fs::exists(theirs) && Tokenizer::load(theirs).vocab_size() == config.vocab))
                fmt::print(stderr,
                           "warning: {}: the shards were made with {}, but this run has no tokenizer, so its "
                           "vocabulary of {} may not suit them; --tokenizer {} gives it one\n",
                           path, theirs, config.vocab, theirs);
    if (data.masked && document_token() >= 0) options.document_mask = true;
    CHECK(!is_dpo() || data.others.empty() || (data.masked && options.document_mask && options.trust_data),
          "{}: --objective dpo needs preferences, and this shard holds none; tokenize --chat-template makes them of "
          "lines with chosen and rejected",
          data.others);
    CHECK(
        is_dpo() || data.preferences.empty() || options.trust_data,
        "{}: this shard holds preferences, of which the rejected answers should not be learned; --objective dpo trains "
        "on them",
        data.preferences);
    if (data.form && tokenizer && !options.trust_data)
        tell_chat_form(tokenizer_files, config, ChatTemplate(*data.form, *tokenizer, options.tokenizer));
}

inline void Run::read_data() {
    const Busy busy("reading the data");
    Options& o = options;
    CHECK(!o.document_mask || document_token() >= 0,
          "--document-mask: the id of <|endoftext|> is not known; give a --tokenizer FILE that has it");
    CHECK(o.dry_run || !o.sample_every || tokenizer, "--sample-every needs a --tokenizer FILE");
    CHECK(o.dry_run || o.hellaswag.empty() || tokenizer, "--hellaswag needs a --tokenizer FILE");

    if (!o.train_data.is_auto()) train = load(o.train_data, true, ranks);
    if (!o.val_data.is_auto()) val = load(o.val_data, false, ranks);
    const int64_t of_epoch = !train ? 0 : train->masked() ? train->sequences() * o.context : train->tokens();
    resolve_steps(o, recipe, ranks.world, of_epoch);
    if (val) eval_batches = std::min(o.eval_batches, std::max<int64_t>(1, val->sequences() / (o.batch * ranks.world)));
    if (!o.hellaswag.empty() && !o.dry_run) hellaswag = read_hellaswag(o.hellaswag, *tokenizer, o.hellaswag_questions);
    if (o.sample_every && tokenizer) encode_prompt();
}

inline void Run::encode_prompt() {
    prompt     = options.prompt.empty() && tokenizer->eot() < 0 ? "\n" : options.prompt;
    prompt_ids = prompt.empty() ? std::vector<int32_t>{tokenizer->eot()} : tokenizer->encode(prompt);
    CHECK(!prompt_ids.empty(), "--prompt: the tokenizer has no token for any of its bytes");
    config.check_ids(prompt_ids, options.prompt.empty() ? "--sample-every" : "--prompt");
}

inline Run::Run(Options& o, const Flags& flags, const Ranks& started)
    : options(o),
      flags(flags),
      ranks(o.world.is_auto() ? started : Ranks{0, int(o.world)}),
      checkpoint(o.resume ? newest_checkpoint(o.out) : ""),
      saved(checkpoint.empty() ? TrainState() : read_state(checkpoint)),
      preset(find_preset(o.model)),
      home(preset ? "" : find_home()),
      trained_weights(!preset && !weight_files(home).empty()),
      config(read_model()),
      recipe(recipe_for(preset, trained_weights)),
      device(open_device(o.machine, ranks.local, ranks.neighbours)),
      card(o.gpu.value_or(find_card(device.name()))),
      dtype(o.gpu.is_auto() ? dtype_on(device, o.machine) : o.machine.dtype.value_or(DType::BF16)) {
    if (!o.dry_run) refuse_world();
    CHECK(!o.optimizer.in_host_memory || machine() == Machine::cuda,
          "--offload optimizer is for a GPU: on a CPU the state is in the host's memory already");
    CHECK(!o.graph || machine() == Machine::cuda, "--graph: a CUDA graph needs a GPU, and this device is {}",
          device.name());
    CHECK(!o.tune || machine() == Machine::cuda, "--tune is for GPUs: the products of a CPU have one algorithm");
    if (!o.dry_run) refuse_without_products(device);
    CHECK(o.steps.is_auto() || o.steps >= saved.step,
          "--steps {}: the run in {} has done {} already; more than that train it longer", o.steps, o.out,
          count_of(saved.step, "step"));
    if (o.gpu.is_auto()) use_tf32(o.machine, device, dtype);
    if (o.gpu.is_auto()) use_attention(o.machine, device, dtype);
    device.allow_early_launches(!o.machine.no_early_launch);
    CHECK(dtype == DType::BF16 || !o.optimizer.stochastic_rounding,
          "--stochastic-rounding is for weights in bf16; these are in fp32 (--dtype bf16)");
    find_files();
    read_tokenizer();
    read_data_facts();
    resolve(o, config, recipe, ranks.world);
    free_bytes = o.gpu.is_auto() ? device.free_bytes() : card->memory - cuda_context_bytes;
    choose_memory();
    read_data();
    if (checkpoint.empty()) return;
    refuse_other_run();
    go_on_with_schedule();
}

// Refuses --resume with another model, seed or data than the run was started with.
inline void Run::refuse_other_run() const {
    const Options& o  = options;
    const auto theirs = known_fields(read_config(checkpoint), DType::F32), ours = known_fields(config, DType::F32);
    for (const auto& [key, value] : theirs.items())
        CHECK(!ours.contains(key) || ours[key] == value || key == "architectures" || key == "bos_token_id" ||
                  key == "eos_token_id" || (key == family_of(config).context && !config.learned_positions),
              "--model {} is not the model of the run in {}: {} is {} here and {} there", o.model, o.out, key,
              ours[key].dump(), value.dump());
    CHECK(saved.seed == o.seed, "--seed {}: the run in {} has seed {}", o.seed, o.out, saved.seed);
    CHECK(!train || saved.data_fingerprint == train->fingerprint(),
          "--train-data {} is not what the run in {} was trained on; a new --out with --model {} fine-tunes on it",
          o.train_data, o.out, checkpoint);
}

// Decides the schedule of a resumed run from the one before and from the options that were given again.
inline void Run::go_on_with_schedule() {
    Options& o = options;
    NewSchedule now{o.schedule};
    const Schedule before = schedule_at(saved.step, o.earlier, o.schedule);
    now.changed           = before.steps != o.steps;
    for (const Setting& s : flags.list()) {
        const bool of_schedule = s.name == "--schedule" || s.name == "--learning-rate" ||
                                 s.name == "--final-learning-rate" || s.name == "--warmup-steps";
        now.changed |= of_schedule && o.earlier.changes(s);
    }
    now.peak_given   = o.earlier.gives("--learning-rate");
    now.warmup_given = o.earlier.gives("--warmup-steps");
    o.schedule       = continued(before, now, saved.step);
    // A final rate that was not given again may be more than the new peak.
    if (now.changed && !o.earlier.gives("--final-learning-rate") && o.schedule.final_rate > o.schedule.peak())
        o.schedule.final_rate = o.final_learning_rate = o.schedule.peak();
    CHECK(!o.earlier.gives("--final-learning-rate") || o.schedule.kind == Schedule::Kind::constant ||
              o.schedule.final_rate <= o.schedule.peak(),
          "--final-learning-rate {} is more than {}, from which the rate of the run in {} falls; --learning-rate gives "
          "another peak",
          o.schedule.final_rate, o.schedule.peak(), o.out);
    CHECK(saved.step == o.steps || o.schedule.peak() > 0,
          "--steps {}: the learning rate of the run in {} has fallen to 0, and steps at that rate change nothing; give "
          "--learning-rate the rate from which it should fall again",
          o.steps, o.out);
    if (!now.changed || finished()) return;
    const float was = saved.step ? learning_rate(before, saved.step - 1) : 0.f,
                is = learning_rate(o.schedule, saved.step), last = learning_rate(o.schedule, o.steps - 1);
    if (was == is && is == last) {
        schedule_change = fmt::format(
            "the learning rate stays at {:.3g} from step {} to {}; with --learning-rate it would rise to that and fall "
            "from there",
            is, saved.step, o.steps);
        return;
    }
    schedule_change = fmt::format("the learning rate was {:.3g} until step {}, is {:.3g} now", was, saved.step, is);
    const int64_t warm_up_ends = o.schedule.start + o.schedule.warmup_steps;
    const float top            = saved.step < warm_up_ends ? o.schedule.peak() : is;
    if (top > is) schedule_change += fmt::format(", rises to {:.3g} by step {}", top, warm_up_ends);
    schedule_change += last < top ? fmt::format(", and falls to {:.3g} at step {}", last, o.steps)
                                  : fmt::format(", and stays there until step {}", o.steps);
}
