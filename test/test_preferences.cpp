// test_preferences.cpp - DPO against its formula in PyTorch, and runs of it
#include <cmath>

#include "data/bpe_training.h"
#include "data/documents.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "gpt/optimizers.h"
#include "gpt/preferences.h"
#include "gpt/step.h"
#include "test/golden.h"
#include "test/tokenize.h"

static const volatile std::sig_atomic_t stop_never = 0;

TEST_CASE("DPO has the loss, the gradients and the steps of its formula in PyTorch", "[preferences][model]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    CAPTURE(dev, name_of(dtype));
    const double tolerance = dtype == DType::F32 ? 1e-5 : 0.1;  // of the largest; bf16 shows only that nothing is wrong
    const json golden      = json::parse(read_text("test/golden/dpo.json"));
    const Scratch dir;
    ShardWriter writer(dir / "p", 61, 1000, true);
    for (size_t d = 0; d < golden["documents"].size(); d += 2) {
        Ids ids;
        std::vector<uint8_t> counts;
        for (const size_t one : {d, d + 1}) {
            ids.push_back(0);
            counts.push_back(0);
            for (const int id : golden["documents"][one]) ids.push_back(std::abs(id)), counts.push_back(id < 0);
        }
        writer.add(ids.data(), counts.data(), ids.size());
    }
    writer.commit();

    LoaderSettings set;
    set.pattern = dir / "p_*.bin";
    set.batch = 3, set.context = 24, set.vocab = 61, set.document_token = 0, set.pairs = true;
    Loader data(set);
    REQUIRE(data.sequences() % 3 == 0);
    REQUIRE(data.documents() == 16);
    const std::string home = "test/golden/gpt2";
    Model m(read_config(home), dtype, {3, 24}, *dev);
    OptimizerSettings settings;
    settings.beta1 = 0.9f, settings.beta2 = 0.95f, settings.weight_decay = golden["weight_decay"],
    settings.clip    = golden["clip"];
    const auto adamw = make_optimizer(m, settings);
    load_weights(m.params, m.config, SafetensorsReader(home), m.stream,
                 dtype == DType::F32 ? nullptr : &adamw->master());

    const std::vector<float> reference = answer_log_probs(m, data);
    for (size_t d = 0; d < reference.size(); d++)
        CHECK(reference[d] == Approx(golden["reference"][d].get<double>()).epsilon(dtype == DType::F32 ? 1e-5 : 3e-2));
    data.rewind();
    Preferences preferences(golden["beta"], reference);
    Schedule schedule;
    schedule.kind = Schedule::Kind::constant, schedule.learning_rate = golden["learning_rate"], schedule.steps = 5;
    const Comm comm(Ranks{}, 0);
    Step steps(m, *adamw, comm, data, schedule, {data.sequences() / 3, true}, &preferences);
    for (int64_t step = 0; step < 5; step++) {
        const json& want   = golden["steps"][step];
        const StepResult r = steps.run(step, stop_never);
        CHECK(r.loss == Approx(want["loss"].get<double>()).epsilon(tolerance));
        CHECK(r.norm == Approx(want["norm"].get<double>()).epsilon(10 * tolerance));
        CHECK(r.margin == Approx(want["margin"].get<double>()).epsilon(tolerance).margin(tolerance));
        if (step > 0) CHECK(r.accuracy == want["accuracy"].get<float>());  // all margins are 0 at first
        if (step != 1 || dtype != DType::F32) continue;
        const SafetensorsReader gradients("test/golden/dpo.safetensors");
        for (const ParamRow& p : param_rows(m.grads, m.config)) {
            CAPTURE(p.name);
            const auto wanted = golden_gradient(gradients, m.config, p);
            CHECK(largest_difference(floats_of(*p.tensor, m.stream), wanted) <=
                  1e-4 * std::max(largest_of(wanted), 1e-3));
        }
    }
}

TEST_CASE("where an answer has no finite log-probability the loss of its pair is no number", "[preferences]") {
    const auto loss = [](float chosen, float rejected) {  // of a pair whose answers have a token each
        return weigh_pairs({0, 1}, 2, {chosen, rejected}, {-1, -1}, 1, 1, nullptr).loss;
    };
    CHECK(loss(1, 1) == Approx(std::log(2.)));
    CHECK(loss(1, 3) == Approx(std::log1p(std::exp(-2.))));
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
        CAPTURE(bad);
        CHECK(std::isnan(loss(bad, 1)));
        CHECK(std::isnan(loss(1, bad)));  // without end better than the rejected one, it would have a loss of 0
    }
}

// Shards of preferences, and the words of a command that trains on them.
// moved: the pairs in the middle of the file change places.
static std::string preference_shards(const Scratch& s, int pairs = 40, bool moved = false) {
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string lines;
    for (int k = 0; k < pairs; k++) {
        const int i = moved && std::abs(2 * k - pairs) < 20 ? pairs - k : k;
        std::string longer;
        for (int w = 0; w < i % 5; w++) longer += " the wind";
        lines += json{{"prompt", fmt::format("was the sea {}", i)},
                      {"chosen", "the ship" + longer},
                      {"rejected", fmt::format("the bell rang {}", i * 7 % 10)}}
                     .dump() +
                 "\n";
    }
    write_text(s / "p.jsonl", lines);
    REQUIRE(tokenize(s, "--input " + quoted(s / "p.jsonl") +
                            " --chat-template plain --val-fraction 0.3 --overwrite --output " + quoted(s / "p"))
                .code == 0);
    return " --model nano --context 96 --warmup-steps 0 --tokenizer " + quoted(s / "tokenizer.json") +
           " --train-data " + quoted(s / "p_train*.bin") + " --val-data " + quoted(s / "p_val*.bin") + " ";
}

TEST_CASE("a run of DPO logs its margins, keeps its reference, and goes on to the bit", "[preferences][programs]") {
    const Scratch s;
    const std::string data  = preference_shards(s) + "--objective dpo --dpo-beta 0.5 --eval-every 3 --save-every 2 ",
                      words = data + "--dtype fp32 --learning-rate 0.003 ";
    const auto train        = [&](const std::string& more, int code = 0, const std::string& under = "") {
        const Ran r = run(s, "train_gpt", more, "", under);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == code);
        return r.out + r.err;
    };
    const std::string one = words + "--batch 4 --accumulate 1 --steps 6 ",
                      two = words + "--batch 2 --accumulate 2 --steps 6 ";
    const std::string out = train(one + "--threads 1 --out " + quoted(s / "a"));
    CHECK(missing_words(out, {"margin", "right", "of the validation pairs", "--objective dpo"}) == "");
    const auto steps = records(s / "a", "step"), evals = records(s / "a", "eval"),
               pairs = records(s / "a", "preferences");
    CHECK(steps[0]["loss"].get<double>() == Approx(std::log(2.)).epsilon(1e-6));
    CHECK(std::fabs(steps[0]["margin"].get<double>()) < 1e-5);
    CHECK(steps[5]["margin"] > 0);
    CHECK(steps[5]["accuracy"] > 0.5);
    REQUIRE(evals.size() == 3);
    CHECK(evals[0]["val_loss"].get<double>() == Approx(std::log(2.)).epsilon(1e-6));
    CHECK(evals[2]["val_loss"] < std::log(2.));
    CHECK(pairs[2]["accuracy"] > 0.5);

    // The reference lies beside the data, is found there, and a copy is in the run's folder.
    const List beside = left_in(s, ".p_train_000000.reference_");
    REQUIRE(beside.size() == 1);
    CHECK(read_text(s / beside[0]) == read_text(s / "a/reference_train.safetensors"));
    const auto written = fs::last_write_time(s / beside[0]);
    train(one + "--threads 2 --keep 0 --out " + quoted(s / "b"));
    CHECK(fs::last_write_time(s / beside[0]) == written);
    CHECK(losses(s / "a") == losses(s / "b"));
    for (const int step : {4, 6}) fs::remove_all(s / fmt::format("b/checkpoints/{:07}", step));
    fs::remove(s / beside[0]);
    train("--out " + quoted(s / "b") + " --resume");
    CHECK(losses(s / "a") == losses(s / "b"));
    CHECK(read_text(s / "a/checkpoints/latest/model.safetensors") ==
          read_text(s / "b/checkpoints/latest/model.safetensors"));
    // Whatever the learning rate has not changed yet has a margin of 0: in bf16, and when a batch has a sequence twice.
    const double half = std::log(2.);
    train(data + "--batch 64 --accumulate 1 --steps 2 --dtype fp32 --learning-rate 1e-30 --out " + quoted(s / "large"));
    for (const auto& step : records(s / "large", "step"))
        CHECK(step["loss"].get<double>() == Approx(half).epsilon(1e-6));
    for (const auto& eval : records(s / "large", "eval"))
        CHECK(eval["val_loss"].get<double>() == Approx(half).epsilon(1e-6));
    train(data + "--dtype bf16 --batch 4 --accumulate 1 --steps 1 --out " + quoted(s / "bf16"));
    CHECK(records(s / "bf16", "step")[0]["loss"].get<double>() == Approx(half).epsilon(1e-6));

    fs::remove(s / "b/reference_train.safetensors");
    CHECK(missing_words(train("--out " + quoted(s / "b") + " --resume --steps 8", 2),
                        {"reference_train.safetensors", "not there"}) == "");

    // The mean is that of all pairs of a step, in all micro-steps and processes.
    const auto same = [&](const std::string& folder) {
        for (const char* key : {"loss", "margin", "accuracy"})
            for (size_t i = 0; i < 6; i++)
                CHECK(records(s / folder, "step")[i][key].get<double>() ==
                      Approx(steps[i][key].get<double>()).epsilon(1e-3).margin(1e-4));
        CHECK(records(s / folder, "eval")[2]["val_loss"].get<double>() ==
              Approx(evals[2]["val_loss"].get<double>()).epsilon(1e-3));
    };
    train(two + "--out " + quoted(s / "c"));
    same("c");
    if (!has_mpirun()) return;
    for (const std::string level : {"none", "weights"}) {
        train(words + "--batch 2 --steps 6 --threads 1 --shard " + level + " --out " + quoted(s / level), 0, mpirun(2));
        same(level);
    }
}

TEST_CASE("the reference of DPO is computed again when the data changed anywhere, or its file is damaged",
          "[preferences][programs]") {
    const Scratch s;
    const auto starts_from_half = [&](const std::string& shards, const std::string& out) {
        const Ran r = run(s, "train_gpt",
                          shards +
                              "--objective dpo --batch 4 --accumulate 1 --steps 1 --save-every 0 "
                              "--dtype fp32 --eval-every 0 --out " +
                              quoted(s / out));
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        CHECK(records(s / out, "step")[0]["loss"].get<double>() == Approx(std::log(2.)).epsilon(1e-6));
        return r.err;
    };
    starts_from_half(preference_shards(s, 2000), "first");
    const std::string before = read_text(s / "p_train_000000.bin"), words = preference_shards(s, 2000, true),
                      after = read_text(s / "p_train_000000.bin");
    const auto ends = [](const std::string& all) { return all.substr(0, 4096) + all.substr(all.size() - 4096); };
    REQUIRE((before != after && ends(before) == ends(after)));
    starts_from_half(words, "changed");
    write_text(s / left_in(s, ".p_train_000000.reference_").at(0), "damaged");
    CHECK(missing_words(starts_from_half(words, "damaged"), {"the reference is computed again"}) == "");
}

TEST_CASE("DPO needs preferences, and nothing else learns from them", "[preferences][programs]") {
    const Scratch s;
    const std::string words = preference_shards(s) + "--batch 2 --steps 1 --out " + quoted(s / "run");
    const auto refuses      = [&](const std::string& more, const List& expected) {
        const Ran r = run(s, "train_gpt", more);
        CHECK(r.code == 2);
        CHECK(says(r, expected));
        CHECK_FALSE(fs::exists(s / "run/run.json"));
    };
    refuses(words, {"p_val_000000.bin", "--objective dpo"});
    refuses(words + " --objective dpo --graph --device cuda", {"--graph", "dpo"});
    for (const char* rate : {" --dropout 0.1", " --dropout auto"})
        refuses(words + " --objective dpo" + rate, {"--dropout", "dpo", "reference"});
    for (const char* likelihood : {"", " --objective likelihood"})
        refuses(words + " --dpo-beta 0.2" + likelihood, {"--dpo-beta has an effect only with --objective dpo"});
    // A pair that is longer than a sequence is left out, and the message says which context has room for it.
    const auto with_context = [&](int context) {
        return std::string(words).replace(words.find("--context 96"), 12, fmt::format("--context {}", context)) +
               " --objective dpo --dtype fp32 --eval-every 0 --save-every 0 ";
    };
    const Ran none = run(s, "train_gpt", with_context(8));
    CAPTURE(none.err);
    CHECK(missing_words(none.err, {"a sequence of 9 tokens", "none of these do", "--context "}) == "");
    const int longest = std::atoi(none.err.c_str() + none.err.rfind("--context ") + 10);
    const Ran some    = run(s, "train_gpt", with_context(longest - 1));
    fs::remove_all(s / "run");
    const Ran all = run(s, "train_gpt", with_context(longest));
    fs::remove_all(s / "run");
    CAPTURE(some.out, some.err, all.out, all.err);
    REQUIRE(some.code == 0);
    CHECK(missing_words(some.out,
                        {fmt::format("longer than the context of {} were left out; --context {} has room for all",
                                     longest - 1, longest)
                             .c_str()}) == "");
    REQUIRE(all.code == 0);
    CHECK(all.out.find("left out") == std::string::npos);
    // The shards themselves say what they are.
    fs::remove(s / "p_summary.json");
    refuses(words, {"p_val_000000.bin", "--objective dpo"});
    write_text(s / "p.jsonl", R"({"prompt": "the sea", "completion": "was calm"})"
                              "\n");
    REQUIRE(tokenize(s, "--input " + quoted(s / "p.jsonl") + " --chat-template plain --overwrite --output " +
                            quoted(s / "p"))
                .code == 0);
    write_text(s / "p_val_000000.bin", read_text(s / "p_train_000000.bin"));
    refuses(words + " --objective dpo", {"p_val_000000.bin", "--objective dpo needs preferences"});
}
