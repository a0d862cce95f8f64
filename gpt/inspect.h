// inspect.h - looks inside a model as a command does: from files or a prompt to tables, pictures and JSON
#pragma once
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gpt/busy.h"
#include "gpt/inference.h"
#include "gpt/lens.h"
#include "gpt/probe.h"
#include "gpt/probe_plot.h"

// Prints what each layer would say after the prompt.
inline void print_lens(const Inference& i, Prompt prompt) {
    shorten(prompt, i);
    const auto layers = parse_layers(i.options.layers, i.model.config.layers);
    std::vector<LensRow> rows;
    for (const LensRow& row : lens(i.model, prompt.ids, 5))
        if (std::binary_search(layers.begin(), layers.end(), row.layer)) rows.push_back(row);
    if (i.options.json) return fmt::print("{}\n", json_text(lens_json(rows, i.tokenizer)));
    fmt::print("{}", lens_table(rows, i.tokenizer));
}

// Encodes texts as documents of training data begin: with the tokens that the tokenizer.json puts in front, or else
// the end-of-text token.
inline std::vector<TextIds> ids_of(const LabelledTexts& texts, TextEncoder encoder) {
    std::vector<int32_t> front = encoder.tokenizer().before();
    if (front.empty() && encoder.tokenizer().eot() >= 0) front = {encoder.tokenizer().eot()};
    std::vector<TextIds> all;
    for (size_t k = 0; k < texts.texts.size(); k++) {
        const std::string where = fmt::format("{} text {}", texts.file, k + 1);
        encoder.count(texts.texts[k], where);
        TextIds text{front, int64_t(front.size())};
        for (const int32_t id : encoder.encode(texts.texts[k])) text.ids.push_back(id);
        CHECK(int64_t(text.ids.size()) > text.front, "{}: the tokenizer has no token for any of its bytes", where);
        all.push_back(text);
    }
    encoder.tell(texts.file);
    return all;
}

// Refuses outputs of --probe that exist or cannot be written. Call it before anything is read.
inline void refuse_outputs(const InferOptions& o) {
    // A command that was stopped may have left an empty folder --out, which is used.
    for (const auto& path : {o.out, o.activations})
        CHECK(!path || !fs::exists(*path) || (path == o.out && fs::is_directory(*path) && fs::is_empty(*path)),
              "{} exists already; give a new name, or remove it", *path);
    CHECK(
        !o.out || !o.activations || fs::path(*o.out).lexically_normal() != fs::path(*o.activations).lexically_normal(),
        "--out names a folder and --activations a file, so both cannot be {}", *o.out);
    if (o.out) try_file("--out", *o.out + "/probe.json");
    if (o.activations) try_file("--activations", *o.activations);
}

// Finds where in the model the labels of texts can be told apart, and prints it, or writes it to the folder --out.
inline void run_probe(const Inference& i) {
    const InferOptions& o     = i.options;
    const auto layers         = parse_layers(o.layers, i.model.config.layers);
    const LabelledTexts train = read_labelled(o.probe[0]), test = read_labelled(o.probe[1], train.names);
    const TextEncoder encoder = encoder_of(i, SpecialTokens::text);
    const std::set<std::string> known(train.texts.begin(), train.texts.end());
    const auto seen =
        std::count_if(test.texts.begin(), test.texts.end(), [&](auto& text) { return known.count(text); });
    if (seen) fmt::print(stderr, "warning: {} of {} are training texts too\n", count_of(seen, "text"), test.file);

    LabelledFeatures sets[] = {{"train", {}, train.labels}, {"test", {}, test.labels}};
    for (const bool of_test : {false, true}) {
        const auto ids = ids_of(of_test ? test : train, encoder);
        Busy busy(of_test ? "reading test texts," : "reading training texts,", int64_t(ids.size()));
        sets[of_test].layers = features_of(i.model, ids, layers, [&](int64_t n) { return busy.done(n), true; });
    }
    if (o.activations) {
        fs::create_directories(fs::absolute(*o.activations).parent_path());
        write_features(*o.activations, {&sets[0], &sets[1]});
    }
    Busy busy("fitting, layer", int64_t(layers.size()));
    const ProbeResult result =
        probe(train, sets[0].layers, test, sets[1].layers, [&](int64_t n) { return busy.done(n), true; });
    busy.end();
    const auto json = probe_json(result, train, test);
    if (o.out) {
        fs::create_directories(*o.out);
        write_file(*o.out + "/probe.json", json_text(json, 2) + "\n");
        write_directions(*o.out + "/directions.safetensors", result);
        probe_png(*o.out + "/probe.png", result, train.names);
    }
    fmt::print("{}", o.json ? json_text(json) + "\n" : probe_table(result, train, test));
}
