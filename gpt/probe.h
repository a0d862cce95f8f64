// probe.h - where in a model a concept lies: classifiers of labelled texts on the residual stream of each layer
//
// For each layer there are a logistic regression on the mean over a text, one on its last token, and the single unit
// that separates the two labels best, as in the work on the sentiment neuron (arXiv 1704.01444). classifiers.h says how
// they are chosen on the training texts and scored on the test texts.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gpt/classifiers.h"
#include "gpt/evaluation.h"

// ---- the texts ------------------------------------------------------------------------------------------------------

struct LabelledTexts {
    std::string file;
    std::vector<std::string> texts;
    std::vector<int32_t> labels;  // 0 or 1: which of `names` a text has
    std::vector<std::string> names;
    int64_t ones() const { return std::count(labels.begin(), labels.end(), 1); }
};

// Reads lines with a "text" and a "label" that is one of two values: numbers, texts or booleans. `names` are the labels
// of the training file when this is the test file.
inline LabelledTexts read_labelled(const std::string& file, const std::vector<std::string>& names = {}) {
    LabelledTexts all;
    all.file  = file;
    all.names = names;
    std::vector<std::string> labels;
    each_json_line(file, [&](const nlohmann::json& j, const std::string& where) {
        all.texts.push_back(text_field(j, "text", where));
        CHECK(!all.texts.back().empty(), "{}: the text is empty", where);
        const bool there = j.contains("label") && j["label"].is_primitive() && !j["label"].is_null();
        CHECK(there, "{}: the field \"label\" is {}, expected a number or a text", where,
              j.contains("label") ? j["label"].dump().substr(0, 80) : "missing");
        const std::string label = j["label"].dump();
        labels.push_back(label);
        if (std::find(all.names.begin(), all.names.end(), label) != all.names.end()) return;
        CHECK(names.empty(), "{}: the label {} is not one of the training texts", where, label.substr(0, 80));
        CHECK(all.names.size() < 2, "{}: {} is a third label, after {} and {}; a probe tells two apart", where,
              label.substr(0, 80), all.names[0], all.names[1]);
        all.names.push_back(label);
    });
    CHECK(!all.texts.empty(), "{}: no texts", file);
    CHECK(all.names.size() == 2, "{}: all texts have the label {}; a probe tells two apart", file, all.names[0]);
    std::sort(all.names.begin(), all.names.end(), [](const std::string& a, const std::string& b) {
        return nlohmann::json::parse(a) < nlohmann::json::parse(b);  // 9 before 10, and numbers before texts
    });
    for (const std::string& label : labels) all.labels.push_back(label == all.names[1]);
    return all;
}

// ---- the probe ------------------------------------------------------------------------------------------------------

struct LayerScore {
    int64_t layer;
    ClassifierScore classifier[2];  // by Pooling
    UnitScore unit[2];
    // The unit vector along which log-odds rise fastest, times the standard deviation of the training texts along it:
    // what --steer adds when A is 1.
    std::vector<float> direction[2];
    Pooling best_pooling() const { return unit[1].train.right > unit[0].train.right ? Pooling::last : Pooling::mean; }
};

struct ProbeResult {
    Accuracy majority;  // always the label that most training texts have
    ClassifierScore words;
    std::vector<LayerScore> layers;
    size_t best = 0;  // the index of the layer whose best unit gets the most training texts right; on a tie the first
    // Values of that unit in the test texts of each label.
    std::vector<float> best_values[2];
};

inline std::vector<float> direction_of(const LogisticModel& m, const UnitScale& scale, const Features& train) {
    std::vector<double> d(m.w.size());
    double square = 0;
    for (size_t c = 0; c < d.size(); c++) {
        d[c] = m.w[c] / scale.deviation[c];
        square += d[c] * d[c];
    }
    const double length = square > 0 ? std::sqrt(square) : 1, n = double(train.rows);
    std::vector<double> along(size_t(train.rows), 0.);
    double mean = 0, variance = 0;
    for (size_t i = 0; i < along.size(); i++) {
        for (size_t c = 0; c < d.size(); c++) along[i] += (train.row(int64_t(i))[c] - scale.mean[c]) * d[c] / length;
        mean += along[i] / n;
    }
    for (const double a : along) variance += (a - mean) * (a - mean) / n;
    std::vector<float> direction;
    for (const double x : d) direction.push_back(float(x / length * std::sqrt(variance)));
    return direction;
}

// When go_on() ends it early, the results mean nothing.
inline ProbeResult probe(const LabelledTexts& train, const std::vector<LayerFeatures>& train_features,
                         const LabelledTexts& test, const std::vector<LayerFeatures>& test_features,
                         const GoOn& go_on = nullptr) {
    for (const bool of_held_out : {false, true})
        for (const int32_t label : {0, 1}) {
            bool there = false;
            for (size_t i = 0; i < train.labels.size(); i++)
                there |= train.labels[i] == label && held_out(int64_t(i)) == of_held_out;
            CHECK(there, "{}: no text with the label {} is among {}; give more texts, or mix them", train.file,
                  train.names[size_t(label)],
                  of_held_out ? "every fifth text, which is held out to choose L2" : "those that are fitted");
        }
    ProbeResult result;
    const bool most = 2 * train.ones() >= int64_t(train.labels.size());
    const int64_t n = int64_t(test.labels.size());
    result.majority = {most ? test.ones() : n - test.ones(), n};
    result.words    = score_bag_of_words(train.texts, train.labels, test.texts, test.labels);
    const auto rows = [](const DenseMatrix& x, auto take) { return dense_rows(x, take); };
    for (size_t k = 0; k < train_features.size() && (!go_on || go_on(int64_t(k))); k++) {
        LayerScore score{};
        score.layer = train_features[k].layer;
        for (size_t by = 0; by < 2; by++) {
            const Features &x = train_features[k].pooled[by], &y = test_features[k].pooled[by];
            const UnitScale scale(x);
            score.classifier[by] = score_classifier(scale.scaled(x), train.labels, scale.scaled(y), test.labels, rows);
            score.direction[by]  = direction_of(score.classifier[by].model, scale, x);
            score.unit[by]       = best_unit(x, train.labels, y, test.labels);
        }
        result.layers.push_back(std::move(score));
        const auto right = [&](size_t layer) {
            const LayerScore& l = result.layers[layer];
            return l.unit[size_t(l.best_pooling())].train.right;
        };
        if (right(k) > right(result.best)) result.best = k;
    }
    const LayerScore& best = result.layers.at(result.best);
    const size_t by        = size_t(best.best_pooling());
    for (int64_t i = 0; i < n; i++)
        result.best_values[test.labels[size_t(i)]].push_back(
            test_features[result.best].pooled[by].row(i)[best.unit[by].unit]);
    return result;
}

inline nlohmann::ordered_json probe_json(const ProbeResult& result, const LabelledTexts& train,
                                         const LabelledTexts& test) {
    using Json         = nlohmann::ordered_json;
    const auto numbers = [](const Accuracy& a) {
        return Json{{"accuracy", a.value()}, {"interval", {a.interval().first, a.interval().second}}};
    };
    const auto classifier = [&](const ClassifierScore& s) {
        Json j              = numbers(s.test);
        j["train_accuracy"] = s.train.value();
        j["l2"]             = s.l2;
        j["converged"]      = s.model.converged;
        return j;
    };
    const auto label = [&](int32_t which) { return Json::parse(train.names[size_t(which)]); };
    const auto unit  = [&](const UnitScore& u) {
        Json j              = {{"unit", u.unit}, {"threshold", u.threshold}, {"label_above", label(u.above)}};
        j["class_means"]    = {u.class_means[0], u.class_means[1]};
        j["train_accuracy"] = u.train.value();
        j.update(numbers(u.test));
        return j;
    };
    Json j = {{"train", {{"file", train.file}, {"texts", train.texts.size()}}},
              {"test", {{"file", test.file}, {"texts", test.texts.size()}}},
              {"labels", {label(0), label(1)}},
              {"majority", numbers(result.majority)},
              {"bag_of_words", classifier(result.words)},
              {"layers", Json::array()}};
    for (const LayerScore& layer : result.layers) {
        Json row = {{"layer", layer.layer}};
        for (size_t by = 0; by < 2; by++) {
            row[pooling_names[by]]         = classifier(layer.classifier[by]);
            row[pooling_names[by]]["unit"] = unit(layer.unit[by]);
        }
        j["layers"].push_back(row);
    }
    const LayerScore& best = result.layers.at(result.best);
    j["best_unit"]         = {{"layer", best.layer}, {"pooling", pooling_names[size_t(best.best_pooling())]}};
    j["best_unit"].update(unit(best.unit[size_t(best.best_pooling())]));
    return j;
}

// One line for each layer. An accuracy on the test texts has half of its interval behind it.
inline std::string probe_table(const ProbeResult& result, const LabelledTexts& train, const LabelledTexts& test) {
    const auto percent = [](const Accuracy& a) {
        const auto [low, high] = a.interval();
        return fmt::format("{:5.1f} ±{:.1f}", 100 * a.value(), 50 * (high - low));
    };
    std::string table = fmt::format("{} training texts · {} test texts, {} of them with the label {}\n\n",
                                    train.texts.size(), test.texts.size(), test.ones(), test.names[1]);
    table += "                 accuracy on the test texts in percent (± half of the 95 % interval)\n";
    table += "layer          mean of a text  last token   single unit\n";
    for (const LayerScore& l : result.layers) {
        const size_t by    = size_t(l.best_pooling());
        const UnitScore& u = l.unit[by];
        table += fmt::format("{:>5}          {:<14}  {:<11}  {}  unit {}, {}\n", l.layer, percent(l.classifier[0].test),
                             percent(l.classifier[1].test), percent(u.test), u.unit, pooling_names[by]);
    }
    table +=
        fmt::format("bag of words   {}\nmajority       {}\n", percent(result.words.test), percent(result.majority));
    const LayerScore& best = result.layers.at(result.best);
    const UnitScore& u     = best.unit[size_t(best.best_pooling())];
    table += fmt::format(
        "\nbest unit: {} of layer {}, {}; above {:.4g} the label is {}\n"
        "its mean is {:.4g} in training texts with the label {} and {:.4g} with {}: --steer {}:{}=VALUE\n",
        u.unit, best.layer, best.best_pooling() == Pooling::mean ? "mean of a text" : "last token", u.threshold,
        train.names[size_t(u.above)], u.class_means[0], train.names[0], u.class_means[1], train.names[1], best.layer,
        u.unit);
    return table;
}

// Writes layer.L.mean and layer.L.last (width), which --steer takes.
inline void write_directions(const std::string& path, const ProbeResult& result) {
    std::vector<StoredRow> rows;
    const auto each = [&](auto use) {
        for (const LayerScore& l : result.layers)
            for (size_t by = 0; by < 2; by++)
                use(fmt::format("layer.{}.{}", l.layer, pooling_names[by]), l.direction[by]);
    };
    each([&](const std::string& name, const std::vector<float>& d) {
        rows.push_back({name, "F32", {int64_t(d.size())}});
    });
    SafetensorsWriter file(path, rows);
    each([&](const std::string& name, const std::vector<float>& d) {
        file.write(name, d.data(), int64_t(d.size() * sizeof(float)));
    });
    file.close();
}
