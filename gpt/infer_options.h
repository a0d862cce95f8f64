// infer_options.h - the options of infer_gpt, one entry each
#pragma once
#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "gpt/generate.h"
#include "gpt/presets.h"
#include "gpt/shared_options.h"
#include "kernels/host.h"

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

inline void list_model(Flags& f, InferOptions& o) {
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
}

inline void list_continuing(Flags& f, InferOptions& o) {
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
}

inline void list_instead_of_continuing(Flags& f, InferOptions& o) {
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
}

inline void list_talking(Flags& f, InferOptions& o) {
    f.group("talk");
    f.add("--chat", o.chat,
          "talk to the model: each line of standard input is a message, or a command, which /help lists");
    f.choose("--chat-template", o.chat_template,
             Flags::Table<std::string>{{"chatml", "chatml"}, {"alpaca", "alpaca"}, {"plain", "plain"}},
             "the form in which the model reads a conversation; auto: that of the chat template beside the tokenizer, "
             "or plain if there is none");
}

inline void list_looking_inside(Flags& f, InferOptions& o) {
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
}

inline void list_options(Flags& f, InferOptions& o) {
    list_model(f, o);
    list_machine_options(f, o.machine);
    list_continuing(f, o);
    list_instead_of_continuing(f, o);
    list_talking(f, o);
    list_looking_inside(f, o);
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
