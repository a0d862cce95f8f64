// infer_gpt - continues a prompt, scores a text, or prints logits, with a model folder
#include <iostream>
#include <iterator>

#include "data/tokenizer.h"
#include "gpt/checkpoint.h"
#include "gpt/cli.h"
#include "gpt/evaluation.h"
#include "gpt/generate.h"
#include "gpt/hf.h"
#include "gpt/log.h"

struct Options {
    std::string model, activation, tokenizer, prompt, prompt_file, score, ids, dtype = "auto", device = "auto";
    std::vector<std::string> eval;  // of what, and the file
    int64_t tokens = 200, samples = 1, context = 0;
    int threads = 0;
    Sampling sampling{0.8f, 0, 0.95f, 1337};
    bool logits = false, json = false, stats = false, sync = false, ignore_extra_tensors = false;
};

// clang-format off
static void list_options(Flags& f, Options& o) {
    f.group("model");
    f.add("--model",       o.model,                "model folder, such as runs/NAME/checkpoints/latest", "DIR");
    f.add("--activation",  o.activation,           "gelu (erf form), gelu_new or gelu_fast (tanh form); none: what config.json says", "NAME");
    f.add("--ignore-extra-tensors", o.ignore_extra_tensors, "leave out the tensors of a model folder that are no weights of the model, such as the head of a classifier");
    f.add("--tokenizer",   o.tokenizer,            "tokenizer.json, or vocab.json beside merges.txt; none: what is in the model folder", "FILE");
    f.choose("--dtype",    o.dtype,                {"auto", "bf16", "fp32"}, "auto: bf16 where it is fast");
    f.choose("--device",   o.device,               {"auto", "cpu", "cuda"}, "where to run");
    f.add("--threads",     o.threads,              "CPU threads; 0: one per core");
    f.add("--sync",        o.sync,                 "wait after every GPU kernel, so that an error names the op it happened in");
    f.group("continue a prompt");
    f.add("--prompt",      o.prompt,               "the beginning; with neither this nor --prompt-file: standard input");
    f.add("--prompt-file", o.prompt_file,          "a file with the beginning", "FILE");
    f.add("--tokens",      o.tokens,               "how many to add");
    f.add("--samples",     o.samples,              "independent continuations");
    f.add("--temperature", o.sampling.temperature, "0: always the likeliest token");
    f.add("--top-k",       o.sampling.top_k,       "choose among so many likeliest tokens; 0: all");
    f.add("--top-p",       o.sampling.top_p,       "choose among the likeliest that together have this probability");
    f.add("--seed",        o.sampling.seed,        "of the choices");
    f.add("--stats",       o.stats,                "print tokens per second to standard error at the end");
    f.group("or measure");
    f.add("--score",       o.score,                "log-likelihood and perplexity of a text file or token shard", "FILE");
    f.add("--eval",        o.eval,                 "accuracy as lm-evaluation-harness defines it, on a .jsonl", "hellaswag|lambada FILE");
    f.add("--context",     o.context,              "tokens per window of --score and --eval; 0: as long as the model allows");
    f.add("--json",        o.json,                 "--score: as JSON, token by token; --eval: as JSON");
    f.add("--ids",         o.ids,                  "token ids instead of a prompt", "1,2,3");
    f.add("--logits",      o.logits,               "print the logits at every position of --ids or --prompt as JSON");
}
// clang-format on

static std::string read_text(const std::string& path) {
    const MappedFile file(path);
    return std::string(file.text());
}

// Text has no NUL bytes; a shard of ids has one soon, in the header or in the upper half of a small id.
static bool is_text(const std::string& bytes) { return bytes.find('\0') == bytes.npos; }

static std::vector<int32_t> parse_ids(const std::string& list, int64_t vocab) {
    std::vector<int32_t> ids;
    for (size_t at = 0; at <= list.size();) {
        const size_t end         = std::min(list.find(',', at), list.size());
        const std::string word   = list.substr(at, end - at);
        int32_t id               = -1;
        const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
        CHECK(error == std::errc() && stop == word.data() + word.size() && id >= 0 && id < vocab,
              "--ids: '{}' is no token id of this model (0 to {}); expected a list such as 1,2,3", word, vocab - 1);
        ids.push_back(id);
        at = end + 1;
    }
    return ids;
}

// {"ids": […], "logits": [[…] per position]} over the true vocabulary.
static void print_logits(Model& model, const std::vector<int32_t>& ids) {
    CHECK(!ids.empty(), "--logits: the prompt has no tokens");
    Generator g(model, 1, int64_t(ids.size()));
    fmt::print("{{\"ids\":{},\"logits\":[", nlohmann::json(ids).dump());
    g.feed_all(ids, [&](int64_t t, const float* logits) {
        fmt::print("{}[", t ? "," : "");
        for (int64_t v = 0; v < model.config.vocab; v++) fmt::print("{}{}", v ? "," : "", logits[v]);
        fmt::print("]");
    });
    fmt::print("]}}\n");
}

// Windows of `context` tokens, each starting with the last token of the one before, so that every token but the first
// is predicted exactly once.
static void score(Model& model, const std::vector<int32_t>& ids, const std::string& file, int64_t text_bytes,
                  bool as_json) {
    const int64_t T = model.shape.context, n = int64_t(ids.size());
    CHECK(n >= 2, "--score {}: {} tokens; at least 2 are needed to predict one from another", file, n);
    std::vector<float> all;
    double total = 0;
    for (int64_t first = 0; first + 1 < n; first += T) {
        const int64_t m = std::min(T, n - 1 - first);
        std::vector<int32_t> tokens(T, 0), targets(T, -1);
        std::copy_n(ids.begin() + first, m, tokens.begin());
        std::copy_n(ids.begin() + first + 1, m, targets.begin());
        const Batch& batch =
            model.feed.bring({{tokens.data(), DType::I32, {1, T}}, {targets.data(), DType::I32, {1, T}}});
        forward(model, batch, Keep::results);
        head(model, batch, model.acts.loss, 1.f);
        std::vector<float> losses(T);
        to_host(losses.data(), model.acts.losses, model.stream);
        for (int64_t t = 0; t < m; t++) {
            total += losses[t];
            all.push_back(-losses[t]);
        }
    }
    const double mean = total / double(n - 1);
    if (as_json) {
        nlohmann::ordered_json j = {{"file", file},
                                    {"tokens", n - 1},
                                    {"log_likelihood", -total},
                                    {"loss", mean},
                                    {"perplexity", std::exp(mean)}};
        if (text_bytes) j["bits_per_byte"] = total / std::log(2.0) / double(text_bytes);
        j["ids"]             = ids;
        j["log_likelihoods"] = all;  // of ids[1], ids[2], …
        fmt::print("{}\n", j.dump());
        return;
    }
    fmt::print("{} tokens · loss {:.4f} nats per token · perplexity {:.2f}", grouped(n - 1), mean, std::exp(mean));
    if (text_bytes) fmt::print(" · {:.4f} bits per byte", total / std::log(2.0) / double(text_bytes));
    fmt::print("\n");
}

// Rows of the batches that --eval runs: products of some thousand rows are as fast as any.
constexpr int64_t eval_rows = 4096;

static void evaluate(Model& model, const Tokenizer& tokenizer, const Options& o) {
    const std::string& file = o.eval[1];
    nlohmann::ordered_json j;
    if (o.eval[0] == "hellaswag") {
        const HellaSwagScore s = score_hellaswag(model, read_hellaswag(file, tokenizer));
        j                      = {{"eval", "hellaswag"},
                                  {"file", file},
                                  {"questions", s.questions},
                                  {"acc", s.acc},
                                  {"acc_norm", s.acc_norm}};
    } else {
        const LambadaScore s = score_lambada(model, read_lambada(file, tokenizer));
        j = {{"eval", "lambada"}, {"file", file}, {"texts", s.texts}, {"acc", s.acc}, {"perplexity", s.perplexity}};
    }
    if (o.json) return fmt::print("{}\n", j.dump());
    for (const auto& [name, value] : j.items())
        fmt::print("{:<10} {}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
}

static int run(int argc, char** argv) {
    Options o;
    Flags flags("infer_gpt", "runs GPT-2- and GPT-NeoX-style language models", backends());
    list_options(flags, o);
    if (!flags.parse(argc, argv)) return 0;
    CHECK(!o.model.empty(), "--model is missing: a model folder, such as runs/NAME/checkpoints/latest");
    CHECK(o.prompt.empty() || o.prompt_file.empty(), "--prompt and --prompt-file: give one");
    CHECK(o.tokens >= 0 && o.samples > 0 && o.samples <= 4096,
          "--tokens {} --samples {}: expected 0 or more tokens, 1 to 4096 samples", o.tokens, o.samples);
    o.sampling.check();
    const bool evaluating = !o.eval.empty();
    CHECK(!evaluating || (o.eval.size() == 2 && (o.eval[0] == "hellaswag" || o.eval[0] == "lambada")),
          "--eval: expected hellaswag FILE or lambada FILE");

    const Device dev(o.device, 0, o.threads, o.sync);
    const DType dtype  = o.dtype == "auto"   ? (dev.fast_bf16() ? DType::BF16 : DType::F32)
                         : o.dtype == "bf16" ? DType::BF16
                                             : DType::F32;
    Config config      = read_config(o.model);
    const bool scoring = !o.score.empty();
    if (!o.activation.empty()) set_activation(config, o.activation, "--activation");
    if (!o.context) o.context = config.context;
    CHECK(o.context > 0, "--context {}: expected 0 or more", o.context);
    const BatchShape shape{evaluating ? std::max<int64_t>(1, eval_rows / o.context) : 1,
                           scoring || evaluating ? o.context : 1, false};
    Model model(config, dtype, shape, dev);
    const SafetensorsReader weights(o.model);
    if (!weights.unread().empty()) fmt::print(stderr, "weights: {}\n", weights.description());
    for (const std::string& warning :
         load_weights(model.params, config, weights, model.stream, nullptr, o.ignore_extra_tensors))
        fmt::print(stderr, "warning: {}\n", warning);
    const auto warn_beyond = [&](int64_t tokens, const char* what) {
        if (tokens > config.context && !config.learned_positions)
            fmt::print(stderr, "warning: {} of {} tokens is more than the {} that {} was trained with\n", what, tokens,
                       config.context, config.name);
    };

    if (o.tokenizer.empty()) o.tokenizer = tokenizer_in(o.model);
    std::unique_ptr<Tokenizer> tokenizer =
        o.tokenizer.empty() ? nullptr : std::make_unique<Tokenizer>(Tokenizer::load(o.tokenizer));
    CHECK(!tokenizer || tokenizer->vocab_size() <= config.vocab, "{}: ids up to {}, but {} has a vocabulary of {}",
          o.tokenizer, tokenizer->vocab_size() - 1, config.name, config.vocab);
    const auto encode = [&](const std::string& text) {
        CHECK(tokenizer,
              "{} has no tokenizer.json, and no vocab.json with merges.txt; give one with --tokenizer FILE, or "
              "token ids with --ids",
              o.model);
        return tokenizer->encode(text);
    };

    if (evaluating) {
        CHECK(tokenizer, "{} has no tokenizer.json, and no vocab.json with merges.txt; give one with --tokenizer FILE",
              o.model);
        warn_beyond(o.context, "--context");
        return evaluate(model, *tokenizer, o), 0;
    }
    if (scoring) {
        const std::string text = read_text(o.score);
        std::vector<int32_t> ids;
        if (is_text(text))
            ids = encode(text);
        else {
            const Shard shard(o.score, config.vocab);
            ids.resize(shard.tokens());
            shard.read(0, shard.tokens(), ids.data());
        }
        warn_beyond(o.context, "--context");
        score(model, ids, o.score, is_text(text) ? int64_t(text.size()) : 0, o.json);
        return 0;
    }
    std::vector<int32_t> ids;
    std::string prompt = o.prompt;
    if (!o.ids.empty())
        ids = parse_ids(o.ids, config.vocab);
    else {
        if (!o.prompt_file.empty())
            prompt = read_text(o.prompt_file);
        else if (o.prompt.empty())
            prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
        if (prompt.empty() && tokenizer && tokenizer->eot() >= 0)
            ids = {tokenizer->eot()};
        else
            ids = encode(prompt);
    }
    if (o.logits) {
        warn_beyond(int64_t(ids.size()), "a prompt");
        return print_logits(model, ids), 0;
    }

    std::vector<std::string> texts(o.samples, prompt);
    const bool live = o.samples == 1;
    int64_t made    = 0;
    const Stopwatch watch;
    double first_token = 0;
    if (live) fmt::print("{}", prompt), std::fflush(stdout);
    generate(model, ids, o.tokens, o.samples, o.sampling, [&](int64_t sample, int32_t id) {
        if (made++ == 0) first_token = watch.seconds();
        if (tokenizer && id == tokenizer->eot()) return false;
        const std::string piece = !tokenizer                     ? fmt::format("{} ", id)
                                  : id < tokenizer->vocab_size() ? tokenizer->bytes_of(id)
                                                                 : "\xEF\xBF\xBD";
        if (live)
            fmt::print("{}", piece), std::fflush(stdout);
        else
            texts[sample] += piece;
        return true;
    });
    if (live)
        fmt::print("\n");
    else
        for (int64_t i = 0; i < o.samples; i++) fmt::print("---- {} of {} ----\n{}\n", i + 1, o.samples, texts[i]);
    if (o.stats && made > 1) {
        std::fflush(stdout);
        fmt::print(stderr, "{} tokens of prompt in {:.3f} s · {} tokens at {:.1f} tokens/s\n", ids.size(), first_token,
                   made, double(made - 1) / (watch.seconds() - first_token));
    }
    return 0;
}

int main(int argc, char** argv) try {
    let_idle_threads_sleep(argv);
    return run(argc, argv);
} catch (const std::exception& e) { return complain(e); }
