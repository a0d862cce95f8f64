// test_evaluation.cpp - HellaSwag and LAMBADA: scores worked out by hand, packing that changes nothing, every bad line
#include "data/bpe_training.h"
#include "gpt/evaluation.h"
#include "gpt/generate.h"
#include "gpt/hf.h"
#include "test/close.h"
#include "test/golden.h"
#include "test/programs.h"

static Tokenizer tokenizer_of(const std::string& text, int entries) {
    WordCounts words;
    words.add(text);
    return Tokenizer(BpeTraining(words).learn(entries));
}
// A model that ignores what came before: a token's probability is its weight divided by the sum of all weights.
static void make_unigram(Model& m, const std::vector<float>& weights) {
    for (const ParamRow& r : param_rows(m.params, m.config)) {
        std::vector<float> v(r.shape.numel(), 0.f);
        if (r.tensor == &m.params.lnf_b) v[0] = 1;
        if (r.tensor == &m.params.wte)
            for (size_t i = 0; i < weights.size(); i++) v[i * size_t(m.config.width)] = std::log(weights[i]);
        from_host(*r.tensor, v, m.stream);
    }
}

TEST_CASE("HellaSwag by hand: likeliest ending, and per character", "[evaluation]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const Tokenizer t = tokenizer_of("", 257);
    const Scratch s;
    // ln p over characters: aaaa (ln 2 + 4 ln 8 - 5 ln 268) / 4 = -4.74, b -9.10, cc -8.04; in all -18.9, -9.10, -16.1
    const std::string q = R"("ctx": "x", "endings": ["aaaa", "b", "cc"])";
    write_text(s / "h.jsonl", "{" + q + R"(, "label": 1})" + "\n\n{" + q + R"(, "label": "0"})" + "\n{" + q +
                                  R"(, "label": 2})" + "\n" +
                                  // é is one character of two bytes; divided by bytes, the first ending would win
                                  R"({"ctx": "x", "endings": ["\u00e9\u00e9", "cc"], "label": 1})");
    const auto questions = read_hellaswag(s / "h.jsonl", t);
    REQUIRE(questions.size() == 4);
    CHECK(questions[0].lengths == std::vector<double>{4, 1, 2});
    CHECK(questions[3].lengths == std::vector<double>{2, 2});
    Model m(tiny_config(32, 257), DType::F32, {2, 32, false}, *dev);
    std::vector<float> weights(257, 1.f);
    weights[t.encode("a")[0]] = 8, weights[t.encode("b")[0]] = 4, weights[t.encode(" ")[0]] = 2;  // 268 in all
    make_unigram(m, weights);
    const HellaSwagScore score = score_hellaswag(m, questions);
    CHECK(score.questions == 4);
    CHECK(score.acc == Approx(2 / 4.));       // b, b, b, cc
    CHECK(score.acc_norm == Approx(2 / 4.));  // aaaa, aaaa, aaaa, cc
    // Of endings that are equally likely the first counts, as numpy's argmax has it.
    write_text(s / "tie.jsonl", R"({"ctx": "x", "endings": ["cd", "dc"], "label": 0})");
    const HellaSwagScore tie = score_hellaswag(m, read_hellaswag(s / "tie.jsonl", t));
    CHECK((tie.acc == 1 && tie.acc_norm == 1));
    const auto all = LikelihoodRun(m, false).of(questions[0].endings);
    CHECK(all[0].log_likelihood == Approx(std::log(2.) + 4 * std::log(8.) - 5 * std::log(268.)));
    CHECK(all[1].log_likelihood == Approx(std::log(2.) + std::log(4.) - 2 * std::log(268.)));
}

TEST_CASE("LAMBADA by hand: last word and perplexity", "[evaluation]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const Tokenizer t = tokenizer_of("a a a a", 258);
    REQUIRE(t.encode(" a").size() == 1);
    const Scratch s;
    write_text(s / "l.jsonl", R"({"text": "xy a"})"
                              "\n"
                              R"({"text": "xy a xy b"})"
                              "\n"
                              R"({"text": " a"})"
                              "\n");
    const auto texts = read_lambada(s / "l.jsonl", t);
    REQUIRE(texts.size() == 3);
    CHECK(texts[2].ids == std::vector<int32_t>{t.eot(), t.encode(" a")[0]});  // there is nothing before the word
    Model m(tiny_config(32, 258), DType::F32, {1, 16, false}, *dev);
    std::vector<float> weights(258, 1.f);
    weights[t.encode(" a")[0]] = 16, weights[t.encode(" ")[0]] = 2;  // 274 in all
    make_unigram(m, weights);
    const LambadaScore score = score_lambada(m, texts);
    CHECK(score.texts == 3);
    CHECK(score.acc == Approx(2 / 3.));
    CHECK(score.perplexity ==
          Approx(std::exp(-(2 * std::log(16 / 274.) + std::log(2 / 274.) + std::log(1 / 274.)) / 3)));
}

TEST_CASE("texts that are packed into batches have the scores of each alone", "[evaluation]") {
    const Device* dev = GENERATE(from_range(devices()));
    const bool neox   = GENERATE(false, true);
    CAPTURE(dev, neox);
    const Config c  = tiny_config(32, 23, neox);
    const int64_t T = 9;
    Model m(c, DType::F32, {2, T, false}, *dev);
    for (const ParamRow& r : param_rows(m.params, c)) {
        std::vector<float> v(r.shape.numel(), 0.f);
        Random(7, r.name).fill_normal(v.data(), 0, v.size(), 0.3f);
        from_host(*r.tensor, v, m.stream);
    }
    const Random random(5, "texts");
    std::vector<Continuation> texts;
    for (int64_t i = 0; i < 40; i++) {
        const int64_t n = 2 + int64_t(random.below(3 * i, 13)), given = 1 + int64_t(random.below(3 * i + 1, n - 1));
        Continuation x{{}, given};
        for (int64_t k = 0; k < (i % 2 ? given : n); k++)
            x.ids.push_back(int32_t(Random(5, "ids", i).below(k, c.vocab)));
        if (i % 2 && n <= T)  // the ending is what greedy decoding gives
            generate(m, x.ids, n - given, 1, Sampling{0.f, 0, 1.f, 1},
                     [&](int64_t, int32_t id) { return x.ids.push_back(id), true; });
        if (int64_t(x.ids.size()) > given) texts.push_back(x);
    }
    const auto together = LikelihoodRun(m, true).of(texts);
    int greedy          = 0;
    for (size_t i = 0; i < texts.size(); i++) {
        const int64_t n = int64_t(texts[i].ids.size()), skip = std::max<int64_t>(0, n - 1 - T);
        Likelihood alone;
        Generator g(m, 1, T);
        g.feed_all({texts[i].ids.begin() + skip, texts[i].ids.end() - 1}, [&](int64_t t, const float* logits) {
            if (skip + t + 1 < texts[i].given) return;
            const int32_t next = texts[i].ids[skip + t + 1];
            double sum         = 0;
            for (int64_t v = 0; v < c.vocab; v++) {
                sum += std::exp(double(logits[v]) - logits[next]);
                if (logits[v] > logits[next]) alone.greedy = false;
            }
            alone.log_likelihood -= std::log(sum);
        });
        CAPTURE(i, n, texts[i].given);
        CHECK(together[i].log_likelihood == Approx(alone.log_likelihood).epsilon(1e-5));
        CHECK(together[i].greedy == alone.greedy);
        greedy += alone.greedy;
    }
    CHECK((greedy > 5 && greedy < int(texts.size()) - 5));
}

TEST_CASE("--stride: windows that overlap predict each token once, from as many others as they can", "[evaluation]") {
    const Device* dev    = GENERATE(from_range(devices()));
    const int64_t stride = GENERATE(1, 3, 7, 9), n = GENERATE(2, 9, 10, 11, 40);
    CAPTURE(dev, stride, n);
    const Config c  = tiny_config(32, 23);
    const int64_t T = 9;
    Model m(c, DType::F32, {1, T, false}, *dev);
    for (const ParamRow& r : param_rows(m.params, c)) {
        std::vector<float> v(r.shape.numel(), 0.f);
        Random(7, r.name).fill_normal(v.data(), 0, v.size(), 0.3f);
        from_host(*r.tensor, v, m.stream);
    }
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; i++) ids.push_back(int32_t(Random(5, "ids").below(i, c.vocab)));
    const auto all = log_likelihoods(m, ids, stride);
    REQUIRE(int64_t(all.size()) == n - 1);
    for (int64_t k = 1; k < n; k++) {
        // The first window whose last prediction is of token k or a later one begins here.
        const int64_t first = k <= T ? 0 : (k - T + stride - 1) / stride * stride;
        double alone        = 0;
        Generator g(m, 1, T);
        g.feed_all({ids.begin() + first, ids.begin() + k}, [&](int64_t t, const float* logits) {
            if (first + t + 1 < k) return;
            double sum = 0;
            for (int64_t v = 0; v < c.vocab; v++) sum += std::exp(double(logits[v]) - logits[ids[k]]);
            alone = -std::log(sum);
        });
        CAPTURE(k);
        CHECK(all[k - 1] == Approx(alone).epsilon(1e-4).margin(1e-5));
    }
    CHECK(log_likelihoods(m, ids, T) == log_likelihoods(m, ids));
}

TEST_CASE("texts are cut and cleaned as in lm-evaluation-harness", "[evaluation]") {
    CHECK(clean_hellaswag(" a [title] b  c [x]d ") == "a. b c d");
    CHECK(clean_hellaswag("[a]b [c\nd] [header] e [open") == "b [c\nd] e [open");
    CHECK(clean_hellaswag("") == "");
    const Tokenizer t    = tokenizer_of("a a a a", 258);
    // A space at the end of the context belongs to the ending, where " a" is one id.
    const Continuation x = encode_pair(t, "b ", "a", "");
    CHECK(x.ids == t.encode("b a"));
    CHECK(x.given == 1);
    const Scratch s;
    write_text(
        s / "h.jsonl",
        R"({"activity_label": "Cooking", "ctx_a": "He stirs.", "ctx_b": "the POT", "endings": ["a", "b"], "label": 0})");
    const Question q = read_hellaswag(s / "h.jsonl", t)[0];
    CHECK(t.decode(q.endings[0].ids) == "Cooking: He stirs. The pot a");
    CHECK(q.endings[0].given == int64_t(t.encode("Cooking: He stirs. The pot").size()));
}

TEST_CASE("bad lines of evaluation files are named", "[evaluation]") {
    const Tokenizer t = tokenizer_of("", 257);
    const Scratch s;
    const std::string good = R"({"ctx": "x", "endings": ["a", "b"], "label": 1})";
    const auto refused     = [&](const std::string& line, const char* why) {
        write_text(s / "h.jsonl", good + "\n" + line + "\n");
        CHECK_REFUSED(read_hellaswag(s / "h.jsonl", t), "h.jsonl line 2", why);
    };
    refused("{", "not valid JSON");
    refused("[1]", "expected a JSON object");
    refused(R"({"endings": ["a", "b"], "label": 1})", "\"ctx\" is missing");
    refused(R"({"ctx": 3, "endings": ["a", "b"], "label": 1})", "\"ctx\" is 3");
    refused(R"({"ctx": "x", "label": 1})", "\"endings\" is missing");
    refused(R"({"ctx": "x", "endings": ["a"], "label": 0})", "two or more");
    refused(R"({"ctx": "x", "endings": ["a", 2], "label": 0})", "an ending is 2");
    refused(R"({"ctx": "x", "endings": ["a", "[header]"], "label": 0})", "an ending is empty");
    refused(R"({"ctx": "x", "endings": ["a", "b"]})", "\"label\" is null");
    refused(R"({"ctx": "x", "endings": ["a", "b"], "label": 2})", "expected 0 to 1");
    refused(R"({"ctx": "x", "endings": ["a", "b"], "label": ""})", "expected 0 to 1");
    write_text(s / "l.jsonl", "{\"text\": \"a b\"}\n\n{\"text\": \"ab\"}\n");
    CHECK_REFUSED(read_lambada(s / "l.jsonl", t), "l.jsonl line 3", "no last word");
    write_text(s / "l.jsonl", "\n");
    CHECK_REFUSED(read_lambada(s / "l.jsonl", t), "no texts");
    CHECK_REFUSED(read_hellaswag(s / "l.jsonl", t), "no questions");
    CHECK_REFUSED(read_lambada(s / "none.jsonl", t), "none.jsonl");
}

TEST_CASE("HellaSwag while training and after it, and training with a document mask", "[programs]") {
    const Scratch s;
    WordCounts none;
    write_text(s / "tokenizer.json", BpeTraining(none).learn(257));
    write_text(s / "h.jsonl", R"({"ctx": "abc", "endings": ["de", "xyz", "q"], "label": 0})"
                              "\n"
                              R"({"ctx": "the", "endings": ["end", "start"], "label": 1})"
                              "\n");
    write_text(s / "l.jsonl", R"({"text": "the end"})");
    write_shard(s / "t.bin", 3000);
    const std::string nano =
        "--model nano --device cpu --dtype fp32 --context 32 --batch 2 --save-every 4 --steps 4 --eval-every 2 "
        "--train-data " +
        quoted(s / "t.bin") + " ";
    const std::string with =
        "--tokenizer " + quoted(s / "tokenizer.json") + " --hellaswag " + quoted(s / "h.jsonl") + " ";
    const Ran r = run(s, "train_gpt", nano + with + "--document-mask --out " + quoted(s / "masked"));
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    CHECK(records(s / "masked", "hellaswag").size() == 3);
    REQUIRE(run(s, "train_gpt", nano + with + "--hellaswag-questions 1 --out " + quoted(s / "plain")).code == 0);
    CHECK(losses(s / "masked") != losses(s / "plain"));
    CHECK(records(s / "masked", "hellaswag").back()["questions"] == 2);
    CHECK(records(s / "plain", "hellaswag").back()["questions"] == 1);
    REQUIRE(run(s, "train_gpt", nano + with + "--document-mask --recompute block --out " + quoted(s / "again")).code ==
            0);
    CHECK(losses(s / "masked") == losses(s / "again"));

    const std::string model = "--device cpu --dtype fp32 --model " + quoted(s / "masked/checkpoints/latest") + " ";
    const Ran eval          = run(s, "infer_gpt", model + "--json --eval hellaswag " + quoted(s / "h.jsonl"));
    REQUIRE(eval.code == 0);
    const auto j = nlohmann::json::parse(eval.out), last = records(s / "masked", "hellaswag").back();
    CHECK(j["acc"] == last["acc"]);
    CHECK(j["acc_norm"] == last["acc_norm"]);
    CHECK(j["questions"] == 2);
    const Ran words = run(s, "infer_gpt", model + "--eval lambada " + quoted(s / "l.jsonl"));
    CHECK(words.code == 0);
    CHECK(words.out.find("perplexity") != std::string::npos);
    const std::string lambada = "lambada " + quoted(s / "l.jsonl"), hellaswag = "hellaswag " + quoted(s / "h.jsonl");
    const Ran several = run(s, "infer_gpt", model + "--json --eval " + lambada + " " + hellaswag);
    REQUIRE(several.code == 0);
    const auto list = nlohmann::json::parse(several.out);
    REQUIRE(list.size() == 2);
    CHECK(list[0] == nlohmann::json::parse(run(s, "infer_gpt", model + "--json --eval " + lambada).out));
    CHECK(list[1]["acc_norm"] ==
          nlohmann::json::parse(run(s, "infer_gpt", model + "--json --eval " + hellaswag).out)["acc_norm"]);

    const auto refused = [&](const std::string& program, const std::string& line, const char* why) {
        const Ran r = run(s, program, line);
        CAPTURE(line, r.err);
        CHECK(r.code == 2);
        CHECK(r.err.find(why) != std::string::npos);
    };
    refused("infer_gpt", model + "--eval hellaswag", "hellaswag FILE or lambada FILE");
    refused("infer_gpt", model + "--eval " + lambada + " hellaswag", "or several of them");
    refused("infer_gpt", model + "--stride 3", "--score");
    refused("infer_gpt", model + "--stride 1000 --score " + quoted(s / "l.jsonl"),
            "--stride 1000 is more than --context");
    refused("infer_gpt", model + "--eval arc " + quoted(s / "h.jsonl"), "hellaswag FILE or lambada FILE");
    refused("infer_gpt", model + "--eval lambada " + quoted(s / "h.jsonl"), "h.jsonl line 1");
    fs::create_directories(s / "bare");  // no tokenizer.json beside the data
    fs::copy_file(s / "t.bin", s / "bare/t.bin");
    const std::string bare = "--model nano --device cpu --steps 1 --train-data " + quoted(s / "bare/t.bin") +
                             " --out " + quoted(s / "x") + " ";
    refused("train_gpt", bare + "--document-mask", "--document-mask: the id of <|endoftext|> is not known");
    refused("train_gpt", bare + "--hellaswag " + quoted(s / "h.jsonl"), "--tokenizer");
}
