// test_presets.cpp - every preset's table of parameters, built from shapes alone, has the published number of them
#include <map>

#include "gpt/hf.h"
#include "gpt/model.h"
#include "test/catch.h"
#include "test/scratch.h"

TEST_CASE("presets have their published parameter counts", "[presets]") {
    const std::map<std::string, int64_t> published = {
        {"gpt2", 124439808},         {"gpt2-medium", 354823168},  {"gpt2-large", 774030080},
        {"gpt2-xl", 1557611200},     {"pythia-14m", 14067712},    {"pythia-31m", 30494720},
        {"pythia-70m", 70426624},    {"pythia-160m", 162322944},  {"pythia-410m", 405334016},
        {"pythia-1b", 1011781632},   {"pythia-1.4b", 1414647808}, {"pythia-2.8b", 2775208960},
        {"pythia-6.9b", 6857302016}, {"pythia-12b", 11846072320}, {"gpt-neox-20b", 20554567680},
    };
    for (const auto& [name, count] : published) {
        CAPTURE(name);
        const Preset* p = find_preset(name);
        REQUIRE(p);
        CHECK(count_params(config_of(*p)) == count);
    }
    // The GPT-3 paper rounds; the sizes are these within 3 %.
    const std::map<std::string, double> rounded = {{"gpt3-125m", 125e6}, {"gpt3-350m", 356e6}, {"gpt3-760m", 760e6},
                                                   {"gpt3-1.3b", 1.3e9}, {"gpt3-2.7b", 2.7e9}, {"gpt3-6.7b", 6.7e9},
                                                   {"gpt3-13b", 13e9},   {"gpt3-175b", 175e9}};
    for (const auto& [name, count] : rounded) {
        CAPTURE(name);
        REQUIRE(find_preset(name));
        CHECK(double(count_params(config_of(*find_preset(name)))) == Approx(count).epsilon(0.03));
    }
}

TEST_CASE("every preset survives its own config.json", "[presets]") {
    for (const Preset& p : presets()) {
        CAPTURE(p.name);
        const Scratch scratch;
        const Config c = config_of(p);
        write_file(scratch / "config.json", config_json(c, "BF16").dump());
        const Config d = read_config(scratch.path);
        CHECK(config_json(d, "BF16") == config_json(c, "BF16"));
        CHECK(count_params(d) == count_params(c));
        CHECK(d.rope.dim == c.rope.dim);
        for (const ParamRow& r : [&] {
                 static Params none;
                 return param_rows(none, c);
             }())
            CHECK(r.shape.numel() > 0);
        Arena arena;
        CHECK(plan_activations(arena, c, {1, 128, true}, DType::BF16) > 0);
    }
}

TEST_CASE("config.json of a stranger: what we lack is refused by name", "[presets]") {
    const Scratch scratch;
    const auto read = [&](const std::string& change, const std::string& base) {
        nlohmann::json j = nlohmann::json::parse(base);
        j.merge_patch(nlohmann::json::parse(change));
        write_text(scratch / "config.json", j.dump());
        return read_config(scratch.path);
    };
    const std::string gpt2 =
        R"({"model_type":"gpt2","n_layer":2,"n_embd":8,"n_head":2,"n_positions":16,"vocab_size":11})";
    const std::string neox =
        R"({"model_type":"gpt_neox","num_hidden_layers":2,"hidden_size":16,"num_attention_heads":2,"intermediate_size":24,
                                 "max_position_embeddings":16,"vocab_size":11,"hidden_act":"gelu"})";
    CHECK(read("{}", gpt2).feed_forward == 32);
    CHECK(read(R"({"n_inner":20})", gpt2).feed_forward == 20);
    CHECK(read("{}", neox).rope.dim == 2);
    CHECK(read(R"({"rotary_pct":1.0,"rotary_emb_base":500})", neox).rope.dim == 8);
    CHECK(read(R"({"rope_parameters":{"rope_type":"default","rope_theta":500,"partial_rotary_factor":0.5}})", neox)
              .rope.base == 500.f);
    CHECK(read(R"({"rope_parameters":{"rope_theta":500,"partial_rotary_factor":0.5}})", neox).rope.dim == 4);
    CHECK(read(R"({"hidden_act":"gelu_fast"})", neox).gelu == Gelu::tanh);
    CHECK_REFUSED(read(R"({"model_type":"llama"})", gpt2), "model_type", "llama", "gpt2");
    CHECK_REFUSED(read(R"({"model_type":null})", gpt2), "model_type");
    CHECK_REFUSED(read(R"({"n_layer":null})", gpt2), "n_layer", "missing");
    CHECK_REFUSED(read(R"({"n_layer":"two"})", gpt2), "n_layer", "whole number");
    CHECK_REFUSED(read(R"({"n_layer":-1})", gpt2), "positive");
    CHECK_REFUSED(read(R"({"n_embd":9})", gpt2), "multiple");
    CHECK_REFUSED(read(R"({"n_embd":4611686018427387904})", gpt2), "n_embd", "range");
    CHECK_REFUSED(read(R"({"n_embd":2251799813685248})", gpt2), "range");
    CHECK_REFUSED(read(R"({"activation_function":"relu"})", gpt2), "activation_function", "relu");
    CHECK_REFUSED(read(R"({"scale_attn_by_inverse_layer_idx":true})", gpt2), "scale_attn_by_inverse_layer_idx");
    CHECK_REFUSED(read(R"({"scale_attn_weights":false})", gpt2), "scale_attn_weights");
    CHECK_REFUSED(read(R"({"add_cross_attention":true})", gpt2), "add_cross_attention");
    CHECK_REFUSED(read(R"({"rope_scaling":{"type":"linear","factor":2}})", neox), "rope_scaling");
    CHECK_REFUSED(read(R"({"rope_parameters":{"rope_type":"yarn"}})", neox), "rope_parameters", "yarn");
    CHECK_REFUSED(read(R"({"rotary_pct":1.5})", neox), "1.5");
    CHECK_REFUSED(read(R"({"layer_norm_eps":0})", neox), "epsilon");
    write_text(scratch / "config.json", "{");
    CHECK_REFUSED(read_config(scratch.path), "JSON");
    CHECK_REFUSED(read_config(scratch / "nowhere"), "nowhere", "preset");
}

TEST_CASE("weights that do not fit their config are refused by name", "[presets]") {
    const Device dev("cpu");
    const Scratch scratch;
    const Config c = read_config("test/golden/gpt2");
    Model m(c, DType::F32, {1, 1, false}, dev);
    const SafetensorsReader good("test/golden/gpt2/model.safetensors");
    const auto rewrite = [&](auto change) {
        std::vector<StoredRow> rows;
        for (const auto& [name, t] : good.tensors()) rows.push_back({name, t.dtype, t.shape});
        change(rows);
        SafetensorsWriter w(scratch / "model.safetensors", rows);
        for (const StoredRow& r : rows) {
            const std::vector<char> zeros(r.bytes());
            w.write(r.name, zeros.data(), r.bytes());
        }
        w.close();
        load_weights(m.params, c, SafetensorsReader(scratch.path), m.stream);
    };
    rewrite([](auto&) {});
    CHECK_REFUSED(rewrite([](auto& rows) { rows.pop_back(); }), "missing", "wte.weight");
    CHECK_REFUSED(rewrite([](auto& rows) { rows[0].shape = Shape{3, 5}; }), "expected", "(3, 5)");
    CHECK_REFUSED(rewrite([](auto& rows) { rows[0].dtype = "I64"; }), "I64", "F16");
    CHECK_REFUSED(rewrite([](auto& rows) {
                      rows.push_back({"h.0.surprise", "F32", {2}});
                  }),
                  "h.0.surprise", "no place");
    rewrite([](auto& rows) {
        rows.push_back({"transformer.h.0.attn.bias", "U8", {2}});
    });  // a mask buffer of old files
    rewrite([](auto& rows) {
        rows.push_back({"lm_head.weight", "F32", rows.back().shape});
    });  // the tied head, stored again
    rewrite([](auto& rows) {
        for (auto& r : rows) r.name = r.name.substr(12);
    });  // names as in the first files of the hub
    rewrite([](auto& rows) {
        for (auto& r : rows) r.dtype = "F16";
    });
}
