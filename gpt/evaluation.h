// evaluation.h - HellaSwag and LAMBADA: how likely a model finds the end of a text
//
// Texts, tokens and scores are those of lm-evaluation-harness (its tasks hellaswag and lambada_openai, with no examples
// in the prompt), so that our figures can be compared with published ones.
//   hellaswag  acc: how often the right ending is the likeliest; acc_norm: how often it is the likeliest per character
//   lambada    acc: how often greedy decoding gives the last word; perplexity: e to minus its mean log-likelihood
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json.h"
#include "data/text_stream.h"
#include "gpt/generate.h"
#include "gpt/model.h"
#include "gpt/packing.h"
#include "gpt/text.h"

// ---- the files ------------------------------------------------------------------------------------------------------

// A text whose ids from index `given` on the model has to predict.
struct Continuation {
    std::vector<int32_t> ids;
    int64_t given;
};

// Splits as the harness does. It encodes context and ending together, and the context alone, which gives n ids. The ids
// from index n on are the continuation. An empty context becomes the end-of-text id.
inline Continuation encode_pair(const TextEncoder& encoder, const std::string& context, const std::string& ending,
                                const std::string& where) {
    const size_t end = context.find_last_not_of(" \t\n\r\f\v") + 1;  // spaces at the end belong to the ending
    const auto given = encoder.encode(std::string_view(context).substr(0, end));
    auto ids         = encoder.encode(context + ending);
    CHECK(ids.size() > given.size(), "{}: nothing is left to predict after the context", where);
    if (!given.empty()) return {ids, int64_t(given.size())};
    const int32_t eot = encoder.tokenizer().eot();
    CHECK(eot >= 0, "{}: the context is empty, and the tokenizer has no end-of-text token to stand for it", where);
    ids.insert(ids.begin(), eot);
    return {ids, 1};
}

// Calls each(object, "FILE line N") for every line of a .jsonl file, plain, .zst or .gz, that is not empty. A UTF-8
// byte-order mark in front is left out.
inline void each_json_line(const std::string& path,
                           const std::function<void(const nlohmann::json&, const std::string&)>& each) {
    const std::string text = read_whole_text(path, true);
    int64_t number         = 0;
    for (std::string_view rest = text; !rest.empty();) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        const std::string where = fmt::format("{} line {}", path, ++number);
        if (line.find_first_not_of(" \t\r") == line.npos) continue;
        const nlohmann::json j = parse_json(line, where);
        CHECK(j.is_object(), "{}: expected a JSON object", where);
        each(j, where);
    }
}
inline std::string text_field(const nlohmann::json& j, const char* key, const std::string& where) {
    CHECK(j.contains(key) && j[key].is_string(), "{}: the field \"{}\" is {}, expected a text", where, key,
          j.contains(key) ? j[key].dump().substr(0, 80) : "missing");
    return j[key].get<std::string>();
}

struct Question {
    std::vector<Continuation> endings;
    std::vector<double> lengths;  // the characters of each ending
    int64_t label;                // the index of the right ending
};

// Removes the mark-up of WikiHow from a text of HellaSwag, as the harness does.
inline std::string clean_hellaswag(std::string text) {
    const auto replace = [&](std::string_view from, std::string_view to) {
        for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
    };
    const char* space = " \t\n\r\f\v";
    text.erase(0, text.find_first_not_of(space));
    text.erase(text.find_last_not_of(space) + 1);
    replace(" [title]", ". ");
    for (size_t at = 0; (at = text.find('[', at)) != text.npos;) {
        const size_t end = text.find_first_of("]\n", at);
        if (end != text.npos && text[end] == ']')
            text.erase(at, end + 1 - at);
        else
            at++;
    }
    replace("  ", " ");
    return text;
}

// Reads lines as Zellers et al. published them (activity_label, ctx_a, ctx_b, endings, label), or with a context that
// is already joined (ctx). Stops after the first `most` questions (0: reads all).
inline std::vector<Question> read_hellaswag(const std::string& path, TextEncoder encoder, int64_t most = 0) {
    std::vector<Question> all;
    each_json_line(path, [&](const nlohmann::json& j, const std::string& where) {
        if (most > 0 && int64_t(all.size()) == most) return;
        std::string context;
        if (j.contains("activity_label")) {
            std::string b = text_field(j, "ctx_b", where);  // becomes what Python's capitalize() makes of ASCII
            for (size_t i = 0; i < b.size(); i++)
                if (i == 0 ? b[i] >= 'a' && b[i] <= 'z' : b[i] >= 'A' && b[i] <= 'Z') b[i] = char(b[i] ^ 0x20);
            context = text_field(j, "activity_label", where) + ": " + text_field(j, "ctx_a", where) + " " + b;
        } else {
            context = text_field(j, "ctx", where);
        }
        context = clean_hellaswag(context);
        encoder.count(context, where);
        CHECK(j.contains("endings") && j["endings"].is_array() && j["endings"].size() >= 2,
              "{}: the field \"endings\" is {}, expected a list of two or more", where,
              j.contains("endings") ? j["endings"].dump().substr(0, 80) : "missing");
        Question q;
        for (const nlohmann::json& ending : j["endings"]) {
            CHECK(ending.is_string(), "{}: an ending is {}, expected a text", where, ending.dump().substr(0, 80));
            const std::string text = clean_hellaswag(ending.get<std::string>());
            CHECK(!text.empty(), "{}: an ending is empty", where);
            encoder.count(text, where);
            q.endings.push_back(encode_pair(encoder, context, " " + text, where));
            q.lengths.push_back(
                double(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; })));
        }
        const nlohmann::json label = j.value("label", nlohmann::json());
        const std::string digits   = label.is_string() ? label.get<std::string>() : label.dump();
        q.label                    = digits.size() == 1 ? digits[0] - '0' : -1;
        CHECK(q.label >= 0 && q.label < int64_t(q.endings.size()), "{}: \"label\" is {}, expected 0 to {}", where,
              label.dump(), q.endings.size() - 1);
        all.push_back(q);
    });
    CHECK(!all.empty(), "{}: no questions", path);
    encoder.tell(path);
    return all;
}

// Reads lines with a field "text", whose last word is to be predicted.
inline std::vector<Continuation> read_lambada(const std::string& path, TextEncoder encoder) {
    std::vector<Continuation> all;
    each_json_line(path, [&](const nlohmann::json& j, const std::string& where) {
        const std::string text = text_field(j, "text", where);
        const size_t last      = text.rfind(' ');
        CHECK(last != text.npos && last + 1 < text.size(), "{}: no last word after a space", where);
        encoder.count(text, where);
        all.push_back(encode_pair(encoder, text.substr(0, last), text.substr(last), where));
    });
    CHECK(!all.empty(), "{}: no texts", path);
    encoder.tell(path);
    return all;
}

// ---- likelihoods ----------------------------------------------------------------------------------------------------

struct Likelihood {
    double log_likelihood = 0;     // the sum over all ids from `given` on
    bool greedy           = true;  // each of them is the likeliest id (on a tie, the smallest); set only when asked for
};

// Computes likelihoods of texts, which share batches. Of a text longer than the context, the model sees only the end.
class LikelihoodRun {
  public:
    // greedy: also finds out whether each id is the likeliest, which computes the head's product a second time.
    LikelihoodRun(Model& model, bool greedy)
        : model_(model), greedy_(greedy), packed_(model.shape.batch, model.shape.context) {}

    // When go_on() ends it early, the results mean nothing.
    std::vector<Likelihood> of(const std::vector<Continuation>& texts, const GoOn& go_on = nullptr) {
        result_.assign(texts.size(), {});
        for (size_t i = 0; i < texts.size() && (!go_on || go_on(int64_t(i))); i++) place(texts[i], i);
        run();
        return std::move(result_);
    }

  private:
    struct Target {
        int64_t row;
        size_t text;
    };

    // Puts a text into the batch. When there is no room for it, the batch is run first.
    void place(const Continuation& text, size_t index) {
        const int64_t all = int64_t(text.ids.size()) - 1, n = std::min(all, model_.shape.context), skip = all - n;
        model_.config.check_ids(text.ids, "the text");
        int64_t first = packed_.place(text.ids.data() + skip, n);
        if (first < 0) {
            run();
            first = packed_.place(text.ids.data() + skip, n);
        }
        for (int64_t t = std::max<int64_t>(0, text.given - 1 - skip); t < n; t++) {
            packed_.targets()[first + t] = text.ids[skip + t + 1];
            wanted_.push_back({first + t, index});
        }
    }

    // Runs the batch that has been filled so far, and starts an empty one.
    void run() {
        if (wanted_.empty()) return packed_.clear();
        const Batch& batch = model_.feed.bring(packed_.batch());
        forward(model_, batch, Keep::results);
        head(model_, batch, model_.acts.loss, 1.f);
        std::vector<float> losses(model_.shape.rows());
        to_host(losses.data(), model_.acts.losses, model_.stream);
        for (const Target& w : wanted_) {
            expect_finite(std::isfinite(losses[w.row]), packed_.position(w.row) + 1,
                          fmt::format("of text {}", w.text + 1));
            result_[w.text].log_likelihood -= losses[w.row];
        }
        if (greedy_) find_greedy();
        packed_.clear();
        wanted_.clear();
    }

    // The head has overwritten its logits chunk by chunk. So this gathers the final norm of the wanted rows and
    // computes their logits again.
    void find_greedy() {
        const Tensor lnf = model_.acts.lnf;
        for (size_t i = 0; i < wanted_.size(); i++)
            if (int64_t(i) != wanted_[i].row) copy(lnf.rows(i, 1), lnf.rows(wanted_[i].row, 1), model_.stream);
        each_row_of_logits(model_, model_.acts, lnf.rows(0, wanted_.size()), [&](int64_t i, const float* logits) {
            const Target& w        = wanted_[i];
            const float* likeliest = std::max_element(logits, logits + model_.config.vocab);
            if (likeliest - logits != packed_.targets()[w.row]) result_[w.text].greedy = false;
        });
    }

    Model& model_;
    bool greedy_;
    PackedTexts packed_;
    std::vector<Target> wanted_;
    std::vector<Likelihood> result_;
};

// Log-likelihoods of ids[1], ids[2], … Each window of the model's context begins `stride` tokens after the one before,
// and tokens that an earlier window has predicted do not count again. With a stride of the context (0) windows do not
// overlap, so that the first tokens of each are predicted from few others. With a smaller one every token but those of
// the first window is predicted from context - stride others or more, which takes context / stride times as long.
inline std::vector<float> log_likelihoods(Model& model, const std::vector<int32_t>& ids, int64_t stride = 0,
                                          const GoOn& go_on = nullptr) {
    model.config.check_ids(ids, "the text");
    const int64_t T = model.shape.context, n = int64_t(ids.size());
    std::vector<float> all, losses(T);
    for (int64_t first = 0; int64_t(all.size()) < n - 1; first += stride ? stride : T) {
        const int64_t m = std::min(T, n - 1 - first), done = int64_t(all.size()) - first;
        std::vector<int32_t> tokens(T, 0), targets(T, -1);
        std::copy_n(ids.begin() + first, m, tokens.begin());
        std::copy_n(ids.begin() + first + done + 1, m - done, targets.begin() + done);
        const Batch& batch =
            model.feed.bring({{tokens.data(), DType::I32, {1, T}}, {targets.data(), DType::I32, {1, T}}});
        forward(model, batch, Keep::results);
        head(model, batch, model.acts.loss, 1.f);
        to_host(losses.data(), model.acts.losses, model.stream);
        for (int64_t t = done; t < m; t++) {
            expect_finite(std::isfinite(losses[t]), first + t + 1);
            all.push_back(-losses[t]);
        }
        if (go_on && !go_on(int64_t(all.size()))) break;
    }
    return all;
}

// ---- scores ---------------------------------------------------------------------------------------------------------

struct HellaSwagScore {
    int64_t questions;
    double acc, acc_norm;
};
inline HellaSwagScore score_hellaswag(Model& model, const std::vector<Question>& questions,
                                      const GoOn& go_on = nullptr) {
    std::vector<Continuation> texts;
    for (const Question& q : questions) texts.insert(texts.end(), q.endings.begin(), q.endings.end());
    const auto questions_done = [&](int64_t text) {
        return !go_on || go_on(text * int64_t(questions.size()) / int64_t(texts.size()));
    };
    const std::vector<Likelihood> all = LikelihoodRun(model, false).of(texts, questions_done);
    int64_t right = 0, right_norm = 0;
    size_t at = 0;
    for (const Question& q : questions) {
        int64_t best = 0, best_norm = 0;
        const auto of = [&](int64_t i) { return all[at + i].log_likelihood; };
        for (int64_t i = 1; i < int64_t(q.endings.size()); i++) {
            if (of(i) > of(best)) best = i;
            if (of(i) / q.lengths[i] > of(best_norm) / q.lengths[best_norm]) best_norm = i;
        }
        right += best == q.label;
        right_norm += best_norm == q.label;
        at += q.endings.size();
    }
    const double n = double(questions.size());
    return {int64_t(questions.size()), double(right) / n, double(right_norm) / n};
}

struct LambadaScore {
    int64_t texts;
    double acc, perplexity;
};
inline LambadaScore score_lambada(Model& model, const std::vector<Continuation>& texts, const GoOn& go_on = nullptr) {
    double right = 0, total = 0;
    for (const Likelihood& l : LikelihoodRun(model, true).of(texts, go_on)) {
        right += l.greedy;
        total += l.log_likelihood;
    }
    const double n = double(texts.size());
    return {int64_t(texts.size()), right / n, std::exp(-total / n)};
}
