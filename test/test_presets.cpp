// test_presets.cpp - presets and config.json: published sizes and recipes, and which foreign config.json is read or
// refused
//
// Parameters are counted from shapes, so nothing is allocated for the large models.
#include <map>

#include "gpt/hf.h"
#include "gpt/model.h"
#include "gpt/presets.h"
#include "test/catch.h"
#include "test/scratch.h"

TEST_CASE("presets have their published parameter counts", "[presets]") {
    const std::map<std::string, int64_t> published = {
        {"gpt2", 124439808},         {"gpt2-medium", 354823168},   {"gpt2-large", 774030080},
        {"gpt2-xl", 1557611200},     {"pythia-14m", 14067712},     {"pythia-31m", 30494720},
        {"pythia-70m", 70426624},    {"pythia-160m", 162322944},   {"pythia-410m", 405334016},
        {"pythia-1b", 1011781632},   {"pythia-1.4b", 1414647808},  {"pythia-2.8b", 2775208960},
        {"pythia-6.9b", 6857302016}, {"pythia-12b", 11846072320},  {"gpt-neox-20b", 20554567680},
        {"gpt-neo-125m", 125198592}, {"gpt-neo-1.3b", 1315575808}, {"gpt-neo-2.7b", 2651307520},
        {"gpt-j-6b", 6050882784},
    };
    for (const auto& [name, count] : published) {
        CAPTURE(name);
        const Preset* p = find_preset(name);
        REQUIRE(p);
        CHECK(count_params(config_of(*p)) == count);
    }
    // The GPT-3 paper rounds its sizes; ours are within 3 % of them.
    const std::map<std::string, double> rounded = {{"gpt3-125m", 125e6}, {"gpt3-350m", 356e6}, {"gpt3-760m", 760e6},
                                                   {"gpt3-1.3b", 1.3e9}, {"gpt3-2.7b", 2.7e9}, {"gpt3-6.7b", 6.7e9},
                                                   {"gpt3-13b", 13e9},   {"gpt3-175b", 175e9}};
    for (const auto& [name, count] : rounded) {
        CAPTURE(name);
        REQUIRE(find_preset(name));
        CHECK(double(count_params(config_of(*find_preset(name)))) == Approx(count).epsilon(0.03));
    }
}

TEST_CASE("the FLOPs of a token are those of its products, and of attention to the keys that it sees", "[presets]") {
    const double products = 6. * (12 * 12 * 768. * 768 + 50257. * 768);  // of GPT-2 124M and GPT-Neo 125M
    const auto flops      = [](const char* name, int64_t context) {
        return train_flops_per_token(config_of(*find_preset(name)), context);
    };
    CHECK(flops("gpt2", 1024) == Approx(products + 12 * 768. * 12 * 512).epsilon(1e-12));
    // Every second layer of GPT-Neo sees 256 positions at most: 240 on average, because the first see fewer.
    CHECK(flops("gpt-neo-125m", 2048) == Approx(products + 12 * 768. * (6 * 1024 + 6 * 240)).epsilon(1e-12));
}

TEST_CASE("presets carry their published recipes", "[presets]") {
    const auto recipe = [](const char* name) { return find_preset(name)->recipe; };
    for (const Preset& p : presets()) {
        CAPTURE(p.name);
        CHECK(p.recipe.learning_rate > 0);
        CHECK(p.recipe.tokens_per_step > 0);
        CHECK(p.recipe.tokens_per_step % p.context == 0);
        CHECK(p.recipe.warmup_of(p.recipe.published_steps) ==
              p.recipe.warmup_steps);           // the published run has exactly its warm-up
        CHECK(p.recipe.warmup_of(1000) <= 38);  // the largest published share is GPT-2's 700 of 18,865
        CHECK(p.recipe.warmup_of(10) == 0);
    }
    CHECK(recipe("pythia-160m").warmup_of(1000) == 20);
    CHECK(recipe("nano").warmup_of(1000) == 20);
    CHECK(recipe("gpt3-125m").warmup_steps == std::llround(375e6 / 524288));
    CHECK(recipe("gpt-j-6b").beta2 == 0.999f);
    CHECK(recipe("gpt-neo-1.3b").weight_decay == 0.f);
    CHECK(recipe("gpt-neox-20b").weight_decay == 0.01f);
    CHECK(recipe("pythia-12b").learning_rate == 1.2e-4f);

    // These depths and widths tell the two published initialisations apart.
    const auto starts = [](const char* name, const std::string& weight) {
        Params none;
        const Config c = config_of(*find_preset(name));
        for (const ParamRow& r : param_rows(none, c))
            if (r.name == weight) return r.initial.value;
        return -1.f;
    };
    CHECK(starts("gpt3-1.3b", "h.3.up.weight") == 0.02f);
    CHECK(starts("gpt3-1.3b", "h.3.down.weight") == Approx(0.02 / std::sqrt(2. * 24)));
    CHECK(starts("gpt-neox-20b", "h.3.qkv.weight") == Approx(std::sqrt(2. / (5 * 6144))));
    CHECK(starts("gpt-neox-20b", "h.3.proj.weight") == Approx(2 / (44 * std::sqrt(6144.))));
    CHECK(starts("pythia-2.8b", "h.3.proj.weight") == Approx(2 / (32 * std::sqrt(2560.))));
    CHECK(starts("pythia-12b", "h.3.up.weight") == 0.02f);
}

TEST_CASE("every preset survives its own config.json", "[presets]") {
    for (const Preset& p : presets()) {
        CAPTURE(p.name);
        const Scratch scratch;
        const Config c = config_of(p);
        write_file(scratch / "config.json", config_json(c, DType::BF16).dump());
        const Config d = read_config(scratch.path);
        CHECK(config_json(d, DType::BF16) == config_json(c, DType::BF16));
        CHECK(count_params(d) == count_params(c));
        CHECK(d.rope.dim == c.rope.dim);
        CHECK(d.windows == c.windows);
        CHECK(d.attn_scale(1) == c.attn_scale(1));
        Params none;
        for (const ParamRow& r : param_rows(none, c)) CHECK(r.shape.numel() > 0);
        Arena arena;
        CHECK(plan_activations(arena, c, {1, 128, true}, DType::BF16) > 0);
    }
}

TEST_CASE("config.json as the hub has it says the same as our presets", "[presets]") {
    const Scratch scratch;
    const std::map<std::string, const char*> hub = {
        {"gpt2",
         R"({"activation_function":"gelu_new","architectures":["GPT2LMHeadModel"],"attn_pdrop":0.1,"bos_token_id":50256,
            "embd_pdrop":0.1,"eos_token_id":50256,"initializer_range":0.02,"layer_norm_epsilon":1e-05,"model_type":"gpt2",
            "n_ctx":1024,"n_embd":768,"n_head":12,"n_layer":12,"n_positions":1024,"resid_pdrop":0.1,"summary_activation":null,
            "summary_first_dropout":0.1,"task_specific_params":{"text-generation":{"do_sample":true,"max_length":50}},
            "vocab_size":50257})"},
        {"gpt-neo-125m",
         R"({"activation_function":"gelu_new","architectures":["GPTNeoForCausalLM"],"attention_dropout":0,
            "attention_layers":["global","local","global","local","global","local","global","local","global","local","global","local"],
            "attention_types":[[["global","local"],6]],"bos_token_id":50256,"embed_dropout":0,"eos_token_id":50256,
            "gradient_checkpointing":false,"hidden_size":768,"initializer_range":0.02,"intermediate_size":null,
            "layer_norm_epsilon":1e-05,"max_position_embeddings":2048,"model_type":"gpt_neo","num_heads":12,"num_layers":12,
            "resid_dropout":0,"use_cache":true,"vocab_size":50257,"window_size":256})"},
        {"gpt-j-6b",
         R"({"activation_function":"gelu_new","architectures":["GPTJForCausalLM"],"attn_pdrop":0.0,"bos_token_id":50256,
            "embd_pdrop":0.0,"eos_token_id":50256,"gradient_checkpointing":false,"initializer_range":0.02,"layer_norm_epsilon":1e-05,
            "model_type":"gptj","n_embd":4096,"n_head":16,"n_inner":null,"n_layer":28,"n_positions":2048,"resid_pdrop":0.0,
            "rotary":true,"rotary_dim":64,"scale_attn_weights":true,"tie_word_embeddings":false,"tokenizer_class":"GPT2Tokenizer",
            "use_cache":true,"vocab_size":50400})"},
        {"pythia-160m",
         R"({"architectures":["GPTNeoXForCausalLM"],"bos_token_id":0,"eos_token_id":0,"hidden_act":"gelu",
            "hidden_size":768,"initializer_range":0.02,"intermediate_size":3072,"layer_norm_eps":1e-05,"max_position_embeddings":2048,
            "model_type":"gpt_neox","num_attention_heads":12,"num_hidden_layers":12,"rotary_emb_base":10000,"rotary_pct":0.25,
            "tie_word_embeddings":false,"torch_dtype":"float16","use_cache":true,"use_parallel_residual":true,"vocab_size":50304})"},
        {"gpt-neox-20b", R"({"architectures":["GPTNeoXForCausalLM"],"attention_probs_dropout_prob":0,"bos_token_id":0,
            "eos_token_id":0,"hidden_act":"gelu_fast","hidden_dropout_prob":0,"hidden_size":6144,"initializer_range":0.02,
            "intermediate_size":24576,"layer_norm_eps":1e-05,"max_position_embeddings":2048,"model_type":"gpt_neox",
            "num_attention_heads":64,"num_hidden_layers":44,"rotary_emb_base":10000,"rotary_pct":0.25,"tie_word_embeddings":false,
            "torch_dtype":"float16","use_cache":true,"vocab_size":50432})"}};
    for (const auto& [name, text] : hub) {
        CAPTURE(name);
        write_text(scratch / "config.json", text);
        const Config theirs = read_config(scratch.path), ours = config_of(*find_preset(name));
        CHECK(known_fields(theirs, DType::F16) == known_fields(ours, DType::F16));
        CHECK(theirs.windows == ours.windows);
        CHECK(count_params(theirs) == count_params(ours));
    }
}

TEST_CASE("a foreign config.json is refused by the name of the feature that we lack", "[presets]") {
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
    CHECK_REFUSED(read(R"({"n_inner":18446744073709551615})", gpt2), "n_inner", "out of range");
    CHECK_REFUSED(read(R"({"activation_function":"relu"})", gpt2), "activation_function", "relu");
    const Config by_layer = read(R"({"scale_attn_by_inverse_layer_idx":true})", gpt2);
    CHECK(by_layer.attn_scale(0) == 0.5f);
    CHECK(by_layer.attn_scale(1) == 0.25f);
    CHECK(config_json(by_layer, DType::F32)["scale_attn_by_inverse_layer_idx"] == true);
    CHECK(read(R"({"scale_attn_weights":false})", gpt2).attn_scale(1) == 1.f);
    CHECK(read(R"({"scale_attn_weights":false,"scale_attn_by_inverse_layer_idx":true})", gpt2).attn_scale(1) == 0.5f);
    CHECK_REFUSED(read(R"({"scale_attn_weights":0})", gpt2), "scale_attn_weights", "true or false");
    CHECK_REFUSED(read(R"({"add_cross_attention":true})", gpt2), "add_cross_attention");
    CHECK_REFUSED(read(R"({"rope_scaling":{"type":"linear","factor":2}})", neox), "rope_scaling");
    CHECK_REFUSED(read(R"({"rope_parameters":{"rope_type":"yarn"}})", neox), "rope_parameters", "yarn");
    CHECK_REFUSED(read(R"({"rotary_pct":1.5})", neox), "1.5");
    CHECK_REFUSED(read(R"({"layer_norm_eps":0})", neox), "epsilon");
    CHECK_REFUSED(read(R"({"add_cross_attention":true})", neox), "add_cross_attention");
    CHECK_REFUSED(read(R"({"is_encoder_decoder":true})", gpt2), "is_encoder_decoder");
    CHECK_REFUSED(read(R"({"quantization_config":{"quant_method":"gptq","bits":4}})", neox), "quantization_config",
                  "gptq");
    CHECK_REFUSED(read(R"({"pruned_heads":{"0":[1]}})", gpt2), "pruned_heads", "{\"0\":[1]}");
    CHECK(read(R"({"quantization_config":null,"pruned_heads":{},"rope_scaling":null})", gpt2).layers == 2);
    CHECK_REFUSED(read(R"({"n_inner":0})", gpt2), "n_inner", "0");
    CHECK_REFUSED(read(R"({"n_inner":20.5})", gpt2), "n_inner", "20.5", "whole number");
    CHECK_REFUSED(read(R"({"hidden_act":"quick_gelu"})", neox), "hidden_act", "quick_gelu", "gelu_new");
    // The number of dimensions that rotate is stored as a share of the head; each must come back from it.
    for (int64_t heads : {1, 2, 4})
        for (int64_t dim = 0; dim <= 196 / heads; dim += 2) {
            Config c =
                read(fmt::format(R"({{"hidden_size":196,"num_attention_heads":{},"rotary_pct":0}})", heads), neox);
            c.rope.dim     = dim;
            const auto own = config_json(c, DType::F32);
            CHECK(read(own.dump(), neox).rope.dim == dim);
            auto old = own;  // first with the field names of transformers 4 alone, then with those of 5
            old.erase("rope_parameters");
            write_text(scratch / "config.json", old.dump());
            CHECK(read_config(scratch.path).rope.dim == dim);
            auto now = own;
            now.erase("rotary_pct"), now.erase("rotary_emb_base");
            write_text(scratch / "config.json", now.dump());
            CHECK(read_config(scratch.path).rope.dim == dim);
        }

    const std::string neo =
        R"({"model_type":"gpt_neo","num_layers":4,"hidden_size":8,"num_heads":2,"max_position_embeddings":16,"vocab_size":11})";
    const int64_t all = Config::everything;
    using Windows     = std::vector<int64_t>;
    CHECK(read("{}", neo).windows == Windows{all, 256, all, 256});
    CHECK(read("{}", neo).attn_scale(1) == 1.f);
    CHECK(!read("{}", neo).qkv_bias);
    CHECK(read(R"({"attention_types":[[["global","local"],2]],"window_size":5})", neo).windows ==
          Windows{all, 5, all, 5});
    CHECK(read(R"({"attention_types":[[["local"],3],[["global"],1]]})", neo).windows == Windows{256, 256, 256, all});
    CHECK(read(R"({"attention_layers":["local","global","global","local"]})", neo).windows ==
          Windows{256, all, all, 256});
    CHECK(config_json(read("{}", neo), DType::F32)["attention_types"].dump() == R"([[["global","local"],2]])");
    CHECK(config_json(read(R"({"attention_types":[[["local"],3],[["global"],1]]})", neo), DType::F32)["attention_types"]
              .dump() == R"([[["local","local","local","global"],1]])");
    CHECK_REFUSED(read(R"({"attention_types":[[["global","local"],1]]})", neo), "attention_types", "2 layers",
                  "num_layers");
    CHECK_REFUSED(read(R"({"attention_types":[[["global"],1000000000000]]})", neo), "attention_types");
    CHECK_REFUSED(read(R"({"attention_types":"global"})", neo), "attention_types", "list");
    CHECK_REFUSED(read(R"({"attention_types":[[["banded"],4]]})", neo), "attention_types", "banded", "global");
    CHECK_REFUSED(read(R"({"attention_layers":["global"]})", neo), "attention_layers", "num_layers");
    CHECK_REFUSED(read(R"({"attention_layers":[1,2,3,4]})", neo), "attention_layers");
    CHECK_REFUSED(read(R"({"window_size":0})", neo), "window_size");

    const std::string gptj =
        R"({"model_type":"gptj","n_layer":2,"n_embd":16,"n_head":2,"n_positions":16,"vocab_size":11,"rotary_dim":4})";
    CHECK(read("{}", gptj).rope.dim == 4);
    CHECK(read("{}", gptj).shared_norm);
    CHECK(read("{}", gptj).head_bias);
    CHECK(read(R"({"rotary":true})", gptj).rope.dim == 4);
    CHECK_REFUSED(read(R"({"rotary":false})", gptj), "rotary");
    CHECK_REFUSED(read(R"({"rotary_dim":null})", gptj), "rotary_dim", "missing");
    CHECK_REFUSED(read(R"({"rotary_dim":10})", gptj), "10", "head size 8");
    CHECK_REFUSED(read(R"({"rotary_dim":3})", gptj), "3", "even");
    CHECK_REFUSED(read(R"({"rope_scaling":{"type":"linear"}})", gptj), "rope_scaling", "null");
    Config c = read("{}", gptj);
    set_activation(c, "gelu", "--activation");
    CHECK(c.gelu == Gelu::erf);
    CHECK(config_json(c, DType::F32)["activation_function"] == "gelu");
    CHECK_REFUSED(set_activation(c, "relu", "--activation"), "--activation", "relu", "gelu_new");
    write_text(scratch / "config.json", "{");
    CHECK_REFUSED(read_config(scratch.path), "JSON");
    CHECK_REFUSED(read_config(scratch / "nowhere"), "nowhere", "preset");
}

TEST_CASE("config.json may hold what Python writes beside JSON", "[presets]") {
    const Scratch scratch;
    const auto read = [&](const std::string& more) {
        write_text(
            scratch / "config.json",
            R"({"model_type":"gpt2","n_layer":2,"n_embd":8,"n_head":2,"n_positions":16,"vocab_size":11)" + more + "}");
        return read_config(scratch.path);
    };
    // A number that is not used may be NaN or infinite. It is written as null, because JSON has no such numbers.
    const Config c = read(R"(,"a":NaN,"b":[Infinity,-Infinity],"c":"NaN \"NaN","d":{"NaN":1})");
    const auto j   = config_json(c, DType::F32);
    CHECK(j["a"].is_null());
    CHECK(j["b"].dump() == "[null,null]");
    CHECK(j["c"] == "NaN \"NaN");
    CHECK(j["d"]["NaN"] == 1);
    CHECK_REFUSED(read(R"(,"layer_norm_epsilon":NaN)"), "epsilon", "nan");
    CHECK_REFUSED(read(R"(,"layer_norm_epsilon":Infinity)"), "epsilon", "inf");
    CHECK_REFUSED(read(R"(,"n_inner":NaN)"), "n_inner", "whole number");
    CHECK_REFUSED(read(R"(,"a":Nan)"), "not valid JSON");
    CHECK_REFUSED(read(R"(,"a":+Infinity)"), "not valid JSON");
    CHECK_REFUSED(read(R"(,"a":NaN1)"), "not valid JSON");
    CHECK_REFUSED(read(R"(,"a":"NaN)"), "not valid JSON");
    CHECK(read(R"(,"n_layer":3)").layers == 3);  // the last of repeated keys counts, as in Python
    CHECK_REFUSED(parse_json(R"({"a":1,"a":2})", "strict.json"), "strict.json", "twice");
    CHECK_REFUSED(parse_json(R"({"a":NaN})", "strict.json"), "not valid JSON");
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
    });  // old files hold masks as buffers
    rewrite([](auto& rows) {
        rows.push_back({"lm_head.weight", "F32", rows.back().shape});
    });  // some files store the tied head once more
    rewrite([](auto& rows) {
        for (auto& r : rows) r.name = r.name.substr(12);
    });  // the hub's first files have no "transformer." before their names
    rewrite([](auto& rows) {
        for (auto& r : rows) r.dtype = "F16";
    });
}
