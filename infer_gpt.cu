// infer_gpt - continues a prompt, talks, scores a text, runs a benchmark, looks inside: options → model → one of these
//
// gpt/model.h holds the model, gpt/inference.h the prompt, gpt/generate.h generation with its key/value cache,
// gpt/evaluation.h the benchmarks, gpt/chat.h the conversation, gpt/inspect.h and gpt/steer.h what looks inside. The
// CUDA code is in kernels/, with one .cu file per operation.
#include "gpt/chat.h"
#include "gpt/inspect.h"
#include "gpt/log.h"
#include "gpt/machine.h"
#include "gpt/model_folder.h"
#include "gpt/start.h"
#include "gpt/steer.h"

// Returns whether a file holds token ids. Their header and the upper halves of small ids have NUL bytes. Of texts, only
// those in UTF-16 have any. A pipe or standard input is text: its bytes can be read only once.
static bool holds_ids(const std::string& path) {
    if (!fs::is_regular_file(path)) return false;
    ByteStream file(path);
    const std::string_view begin = file.next();
    return begin.find('\0') != begin.npos && !is_wide_text(begin.substr(0, 4096));
}

// ---- benchmarks ----------------------------------------------------------------------------------------------------

static nlohmann::ordered_json result_of(const Inference& i, const std::string& name, const std::string& file) {
    const TextEncoder encoder     = encoder_of(i, SpecialTokens::text);
    nlohmann::ordered_json result = {{"eval", name}, {"file", file}};
    if (name == "hellaswag") {
        Busy reading("reading the questions");
        const auto questions = read_hellaswag(file, encoder);
        reading.end();
        Busy busy("HellaSwag, question", int64_t(questions.size()));
        const HellaSwagScore s = score_hellaswag(i.model, questions, [&](int64_t n) { return busy.done(n), true; });
        result.update({{"questions", s.questions}, {"acc", s.acc}, {"acc_norm", s.acc_norm}});
    } else {
        Busy reading("reading the texts");
        const auto texts = read_lambada(file, encoder);
        reading.end();
        Busy busy("LAMBADA, text", int64_t(texts.size()));
        const LambadaScore s = score_lambada(i.model, texts, [&](int64_t n) { return busy.done(n), true; });
        result.update({{"texts", s.texts}, {"acc", s.acc}, {"perplexity", s.perplexity}});
    }
    return result;
}

static void run_benchmarks(const Inference& i) {
    const auto& all = i.options.eval;
    nlohmann::ordered_json results;
    for (size_t k = 0; k < all.size(); k += 2) {
        const auto result = result_of(i, all[k], all[k + 1]);
        results.push_back(result);
        if (i.options.json) continue;
        for (const auto& [key, value] : result.items())
            fmt::print("{:<10} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
    if (i.options.json) fmt::print("{}\n", json_text(results.size() == 1 ? results[0] : results));
}

// ---- scoring -------------------------------------------------------------------------------------------------------

static void score(const Inference& i) {
    const std::string& file = *i.options.score;
    Busy reading("reading the text");
    const bool is_text     = !holds_ids(file);
    const std::string text = is_text ? read_whole_text(file) : "";
    std::vector<int32_t> ids;
    if (is_text) {
        TextEncoder encoder = encoder_of(i, SpecialTokens::text);
        encoder.count(text, file);
        encoder.tell(file);
        ids = encoder.encode(text);
    } else {
        const Shard shard(file, i.model.config.vocab);
        ids.resize(shard.tokens());
        shard.read(0, shard.tokens(), ids.data());
    }
    reading.end();
    CHECK(ids.size() >= 2, "--score {}: {}; at least 2 are needed to predict one from another", file,
          count_of(int64_t(ids.size()), "token"));

    Busy busy("scoring, token", int64_t(ids.size()) - 1);
    const std::vector<float> all =
        log_likelihoods(i.model, ids, i.options.stride.value_or(0), [&](int64_t n) { return busy.done(n), true; });
    busy.end();
    double total = 0;
    for (float l : all) total -= l;
    const int64_t predicted = int64_t(all.size());
    const double mean       = total / double(predicted);
    // The first token is not predicted, so its bytes do not count.
    int64_t bytes           = 0;
    for (size_t t = 1; is_text && t < ids.size(); t++) bytes += int64_t(i.tokenizer->bytes_of(ids[t]).size());
    const double bits_per_byte = bytes ? total / std::log(2.0) / double(bytes) : 0;
    if (i.options.json) {
        nlohmann::ordered_json j = {{"file", file},
                                    {"tokens", predicted},
                                    {"log_likelihood", -total},
                                    {"loss", mean},
                                    {"perplexity", std::exp(mean)}};
        if (bits_per_byte > 0) j["bits_per_byte"] = bits_per_byte;
        j["ids"]             = ids;
        j["log_likelihoods"] = all;
        return fmt::print("{}\n", json_text(j));
    }
    fmt::print("{} {} · loss {:.4f} nats per token · perplexity {:.2f}", grouped(predicted), plural(predicted, "token"),
               mean, std::exp(mean));
    if (bits_per_byte > 0) fmt::print(" · {:.4f} bits per byte", bits_per_byte);
    fmt::print("\n");
}

// ---- continuing a prompt ------------------------------------------------------------------------------------------

// Prints {"ids": […], "logits": [[…] per position]}, without the padding of the vocabulary.
static void print_logits(const Inference& i, const Prompt& prompt) {
    warn_beyond(i.model.config, int64_t(prompt.ids.size()), "a prompt");
    CHECK(!prompt.ids.empty(), "--logits: the prompt has no tokens");
    Generator g(i.model, 1, int64_t(prompt.ids.size()));
    fmt::print("{{\"ids\":{},\"logits\":[", nlohmann::json(prompt.ids).dump());
    g.feed_all(prompt.ids, [&](int64_t t, const float* logits) {
        expect_finite_logits(logits, i.model.config.vocab, t + 1);
        fmt::print("{}[", t ? "," : "");
        for (int64_t v = 0; v < i.model.config.vocab; v++) fmt::print("{}{}", v ? "," : "", logits[v]);
        fmt::print("]");
    });
    fmt::print("]}}\n");
}

// A single sample is printed as it is generated. Several are printed when all of them are complete; on a terminal a
// counter shows how far they are.
static void continue_prompt(const Inference& i, Prompt prompt) {
    const InferOptions& o = i.options;
    const bool live = o.samples == 1, counts = !live && columns_of(2);
    shorten(prompt, i);
    std::vector<std::string> texts(o.samples, prompt.text);
    std::vector<UntilStop> until(o.samples, UntilStop(o.stop));
    int64_t made = 0;
    std::vector<int64_t> of_sample(o.samples);  // tokens
    double first_token = 0;                     // seconds
    const Stopwatch watch;
    WholeCharacters whole;
    const auto add = [&](int64_t sample, const std::string& text) {
        if (!live) return void(texts[sample] += text);
        fmt::print("{}", whole.add(text));
        std::fflush(stdout);
    };
    Busy reading("reading the prompt");
    const auto begin = [&] {
        reading.end();
        if (live) add(0, prompt.text);
        first_token = watch.seconds();
    };
    generate(
        i.model, prompt.ids, o.tokens, o.samples, o.sampling,
        [&](int64_t sample, int32_t id) {
            if (made++ == 0) begin();
            const int64_t longest = *std::max_element(of_sample.begin(), of_sample.end());
            if (++of_sample[sample] > longest && counts)
                fmt::print(stderr, "\r{} of {} tokens ", longest + 1, o.tokens);
            if (i.model.config.is_end(id)) return false;
            add(sample, until[sample].add(text_of(i.tokenizer, id)));
            return !until[sample].stopped();
        },
        o.context);
    if (made == 0) begin();
    if (counts) fmt::print(stderr, "{}", clear_line);
    for (int64_t s = 0; s < o.samples; s++) add(s, until[s].rest());
    if (live) fmt::print("{}\n", whole.rest());
    for (int64_t s = 0; !live && s < o.samples; s++) fmt::print("---- {} of {} ----\n{}\n", s + 1, o.samples, texts[s]);
    if (o.stats && made > 1) {
        std::fflush(stdout);
        fmt::print(stderr, "{} of prompt in {:.3f} s · {} at {:.1f} tokens/s\n",
                   count_of(int64_t(prompt.ids.size()), "token"), first_token, count_of(made, "token"),
                   double(made - 1) / (watch.seconds() - first_token));
    }
}

// ---- talking -------------------------------------------------------------------------------------------------------

// The form of conversations that --chat-template names, or that of the template beside the tokenizer.
static const ChatForm& chat_form(const InferOptions& o) {
    if (!o.chat_template.is_auto()) return *find_chat_form(o.chat_template);
    if (const ChatForm* beside = chat_form_beside(std::string(o.tokenizer))) return *beside;
    fmt::print(stderr, "note: there is no chat template beside {}, so the conversation has the form plain\n",
               std::string(o.tokenizer));
    return *find_chat_form("plain");
}

static void run_chat(const Inference& i) {
    const InferOptions& o     = i.options;
    const TextEncoder encoder = encoder_of(i, SpecialTokens::text);
    const ChatTemplate form(chat_form(o), *i.tokenizer, o.tokenizer);
    const bool specials = o.special_tokens.value_or(SpecialTokens::text) == SpecialTokens::ids;
    Conversation conversation(i.model, *i.tokenizer, form, {o.context, o.tokens, o.sampling, o.stop, specials});
    chat::talk(conversation, encoder, o.stats);
}

// ---- the order of events -------------------------------------------------------------------------------------------

static int run(int argc, char** argv) {
    InferOptions o;
    Flags flags("infer_gpt", "runs GPT-2- and GPT-NeoX-style language models", backends());
    list_options(flags, o);
    if (!parse_options(o, flags, argc, argv)) return 0;
    refuse_outputs(o);

    o.model             = model_folder(o.model);
    const Device device = open_device(o.machine);
    refuse_without_products(device);
    if (!o.prints_json() && isatty(2) && !device.no_gpu().empty()) fmt::print(stderr, "{}\n", device.no_gpu());
    Busy reading("reading the model");
    Config config = read_config(o.model);
    if (!o.activation.is_auto()) set_activation(config, o.activation, "--activation");
    find_tokenizer(o.tokenizer, o.model);
    const auto tokenizer = load_tokenizer(o.tokenizer);
    if (tokenizer) use_end_token(config, *tokenizer, o.tokenizer);
    o.context.decide(config.context);
    CHECK(!config.learned_positions || o.context <= config.context,
          "--context {} is more than the {} positions that {} has", o.context, config.context, o.model);
    warn_beyond(config, o.context, "--context");
    CHECK(o.stride.value_or(1) <= o.context, "--stride {} is more than --context {}", o.stride.value_or(1), o.context);

    // A Generator allocates activations of its own. A benchmark runs batches of about 4096 rows, which is as fast as
    // larger ones.
    BatchShape shape{1, 1, false};
    if (!o.eval.empty() || !o.probe.empty()) shape = {std::max<int64_t>(1, 4096 / o.context), o.context, false};
    if (o.score) shape.context = o.context;
    const DType dtype = dtype_on(device, o.machine);
    use_tf32(o.machine, device, dtype);
    use_attention(o.machine, device, dtype);
    device.allow_early_launches(!o.machine.no_early_launch);
    Model model(config, dtype, shape, device);
    const SafetensorsReader weights(o.model);
    if (!weights.unread().empty()) fmt::print(stderr, "note: the weights are those of {}\n", weights.description());
    read_weights(model, weights, o.ignore_extra_tensors);
    const Steering steering(model, o.steer);
    reading.end();

    const Inference inference{o, model, tokenizer.get()};
    if (!o.eval.empty())
        run_benchmarks(inference);
    else if (o.score)
        score(inference);
    else if (!o.probe.empty())
        run_probe(inference);
    else if (o.chat)
        run_chat(inference);
    else if (const Prompt prompt = read_prompt(inference); o.logits)
        print_logits(inference, prompt);
    else if (o.lens)
        print_lens(inference, prompt);
    else
        continue_prompt(inference, prompt);
    expect_printed();
    return 0;
}

int main(int argc, char** argv) {
    let_idle_threads_sleep(argv);
    return run_main([&] { return run(argc, argv); });
}
