// test_counts.cpp - limits on what the CUDA half does, as the emulator counts it: the launches of a block, the bytes of
// every op that memory bounds, and the bank conflicts of attention. Also the table of costs in kernels/README.md.
#include "test/counts.h"

#include "data/files.h"
#include "gpt/generate.h"
#include "gpt/optimizers.h"
#include "gpt/presets.h"
#include "gpt/step.h"
#include "gpt/time_model.h"
#include "kernels/measure.h"
#include "test/close.h"
#include "test/cost_table.h"
#include "test/programs.h"
#include "test/update.h"

TEST_CASE("the table of costs in kernels/README.md equals the costs of the ops", "[ops]") {
    const std::string page = read_text("kernels/README.md"), table = cost_table();
    INFO("bench_ops --costs prints the table; it has to be\n" << table);
    CHECK(page.find(table) != std::string::npos);
}

TEST_CASE("bench_ops --hardware sets what ncu counted beside the emulator's counts", "[cli][counts]") {
    const Scratch s;
    const auto emulated = [](const char* name, int launches, double read, int conflicts) {
        return nlohmann::json{{"kernel", name},
                              {"launches", launches},
                              {"dram_read", read},
                              {"shared_conflicts", conflicts},
                              {"shared_wavefronts", 10 * conflicts},
                              {"warp_instructions", 1000}};
    };
    const std::string add       = "void gpu::add_kernel<8, bf16>(bf16*, bf16 const*, bf16 const*, long)",
                      rows      = "void gpu::few_rows_kernel<8, 1, 4, true, bf16>(bf16*, gpu::FewRowsExtras<bf16>)";
    const nlohmann::json counts = {{"kernels", {emulated(add.c_str(), 2, 2e6, 0), emulated(rows.c_str(), 1, 4e6, 40)}}};
    write_text(s / "counts.json", counts.dump());
    const std::string csv = R"csv(==PROF== Connected to process 7
"ID","Kernel Name","Device","gpu__time_duration.sum","dram__bytes_read.sum","l1tex__data_bank_conflicts_pipe_lsu.sum"
"","","","ns","byte",""
"0","void gpu::add_kernel<(int)8, bf16>(T2 *, const T2 *, const T2 *, long)","0","1,500","1,010,000","0"
"1","void gpu::add_kernel<(int)8, bf16>(T2 *, const T2 *, const T2 *, long)","0","1,500","1,000,000","0"
"2","void gpu::few_rows_kernel<(int)8, (int)1, (int)4, (bool)1, bf16>(T5 *)","0","9,000","4,100,000","60"
"3","nvjet_tst_128x64","0","9,000","4,100,000","0"
)csv";
    write_text(s / "ncu.csv", csv);
    const auto compare = [&](const std::string& file) {
        return run(s, "bench_ops", "--hardware " + quoted(s / "counts.json") + "," + quoted(s / file));
    };
    const Ran r = compare("ncu.csv");
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    const auto line = [](const std::string& text, const char* kernel) {
        const size_t at = text.find(kernel);
        REQUIRE(at != std::string::npos);
        return text.substr(at, text.find('\n', at) - at);
    };
    const std::string slow = "few_rows_kernel<8, 1, 4, true, bf16>", fast = "add_kernel<8, bf16>";
    CHECK(r.out.find(slow) < r.out.find(fast));
    CHECK_THAT(line(r.out, slow.c_str()), Catch::Contains("1.02      1.50          -            - !"));
    CHECK_THAT(line(r.out, fast.c_str()), Catch::Contains("3.0 |   1.00      1.00") && !Catch::Contains("!"));
    CHECK_THAT(r.out, Catch::Contains("verdict: 1 of the 2 kernels") && Catch::Contains("1 kernels of libraries"));
    // With wavefronts and instructions.
    std::istringstream in(csv);
    std::string more;
    for (std::string row; std::getline(in, row);)
        more += row +
                (row[1] == 'I'   ? ",\"l1tex__data_pipe_lsu_wavefronts_mem_shared.sum\",\"smsp__inst_executed.sum\""
                 : row[1] == '2' ? ",\"412\",\"1,500\""
                 : row[0] == '"' ? ",\"0\",\"700\""
                                 : "") +
                "\n";
    write_text(s / "more.csv", more);
    CHECK_THAT(line(compare("more.csv").out, slow.c_str()), Catch::Contains("1.50       1.03         1.50 !"));

    write_text(s / "empty.csv", "==ERROR== The user does not have permission\n");
    const Ran refused = compare("empty.csv");
    CHECK(refused.code == 2);
    CHECK_THAT(refused.err, Catch::Contains("there is no line of names"));
}

// Counts what the ops named in `only` do on the emulated GPU, in GPT-2 124M's width, on one sequence of `context`
// tokens.
static std::vector<Counted> count_ops(const std::string& only, int context) {
    const Scratch s;
    const Ran r = run(s, "bench_ops",
                      fmt::format("--device cuda --batch 1 --context {} --only {} --profiled {}", context, only,
                                  quoted(s / "ops.json")),
                      "", "EMU_CHECK=off scripts/emulate --profile " + quoted(s / "counts.json") + " ");
    CAPTURE(only, r.out, r.err);
    REQUIRE(r.code == 0);
    return read_counts(s / "ops.json", s / "counts.json");
}

// Runs another test of this program under the emulator's profiler, in a process of its own, and returns what each of
// its marked parts counted. `rows` names the parts in their order.
static std::vector<Counted> count_test(const std::string& name, const nlohmann::json& rows) {
    const Scratch s;
    const Ran r = run(s, "test_gpt", quoted(name), "",
                      "EMU_CHECK=off scripts/emulate --trace --profile " + quoted(s / "counts.json") + " ");
    CAPTURE(r.out, r.err.substr(r.err.size() - std::min<size_t>(r.err.size(), 4000)));
    REQUIRE(r.code == 0);
    write_text(s / "rows.json", rows.dump());
    auto counted = read_counts(s / "rows.json", s / "counts.json");
    // The profile has kernels alone. Zeroing is in the trace of calls.
    size_t at    = 0;
    for (Counted& c : counted) {
        at               = r.err.find("emulate: cudaProfilerStart", at);
        const size_t end = r.err.find("emulate: cudaProfilerStop", at);
        REQUIRE(end != std::string::npos);
        while ((at = r.err.find("emulate: cudaMemset", at + 1)) < end) c.zeroed++;
        at = end;
    }
    return counted;
}

// One block of every family, with its head size, biases, norms and gelu, and the update of its model. Two heads are
// enough, because launches do not depend on the number of heads.
static const auto block_models = {"gpt2", "pythia-160m", "pythia-1b", "gpt-j-6b", "gpt-neo-125m"};
static const auto block_dtypes = {DType::F32, DType::BF16};
static const auto block_passes = {"forward",         "backward, set",    "backward, add",
                                  "dropout forward", "dropout backward", "update"};

static void count_block(const Device& dev, const char* name, DType x) {
    Config c = config_of(*find_preset(name));
    c.layers = 2;
    c.windows.resize(std::min<size_t>(c.windows.size(), 2));
    c.width        = 2 * c.head_size();
    c.heads        = 2;
    c.feed_forward = 4 * c.width;
    c.vocab        = 64;
    Model m(c, x, {1, 64, true}, dev);
    initialise_params(m.params, c, 1, m.stream);
    const Buffer step(&dev, {1}, DType::I32, Values{1});
    m.dropout          = {{0.1f, 0.1f, 0.1f}, 1, step};
    const auto forward = [&](const BlockDropout& drop) {
        block_forward(
            m.acts.x, [&] { return final_norm(m.params, m.acts); }, m.params.block[1], m.acts.block[1], c,
            Recompute::none, m.stream, attend_all(Tensor{}, Tensor{}, c, 1, m.stream, drop.probabilities), drop);
    };
    const auto backward = [&](Into into, const BlockDropout& drop) {
        block_backward(m.acts.dres, m.grads.block[1], m.params.block[1], m.acts.block[1], Batch{}, c, 1, into, m.stream,
                       drop);
    };
    forward({});  // the first call asks cuBLASLt for algorithms
    profiled(m.stream, [&] { forward({}); });
    for (const Into into : {Into::set, Into::add}) profiled(m.stream, [&] { backward(into, {}); });
    profiled(m.stream, [&] { forward(m.dropout.block(1)); });
    profiled(m.stream, [&] { backward(Into::set, m.dropout.block(1)); });
    AdamW adamw(m, {});
    const UpdateInputs inputs(m, adamw, constant_rate(1e-3f), 0);
    profiled(m.stream, [&] { inputs.update(m, adamw); });
}

// The test below runs this one in a process of its own, under the profiler.
TEST_CASE("blocks of all families between profiler marks", "[.blocks]") {
    const Device dev("cuda");
    if (dev.has_hopper_attention()) dev.use_attention(AttentionKernels::hopper);  // without comparing the first calls
    for (const char* name : block_models)
        for (const DType x : block_dtypes) count_block(dev, name, x);
}

TEST_CASE("launches: at most 14 forward and 18 backward of any family's block, 2 of an update, and none for dropout",
          "[.emulated][counts]") {
    nlohmann::json passes;
    for (const char* name : block_models)
        for (const DType x : block_dtypes)
            for (const char* pass : block_passes)
                passes.push_back(json_of(std::string(name) + " " + pass, name_of(x), {}));
    std::map<std::string, double> launches;  // without dropout
    for (const Counted& c : count_test("blocks of all families between profiler marks", passes)) {
        CAPTURE(c.op, c.dtype, c.launches);
        launches[c.op + c.dtype] = c.launches;
        if (const size_t drop = c.op.find("dropout "); drop != std::string::npos) {
            const std::string name = c.op.substr(0, drop), pass = c.op.substr(drop + 8);
            const bool apart = pass == "backward" && config_of(*find_preset(name.substr(0, drop - 1).c_str())).parallel;
            CHECK(c.launches == launches[name + pass + (pass == "backward" ? ", set" : "") + c.dtype] + apart);
            continue;
        }
        if (c.op.find("update") != std::string::npos) {
            CHECK(c.launches == 2);  // the norm and AdamW
            continue;
        }
        CHECK(c.launches >= 7);
        CHECK(c.launches <= (c.op.find("forward") != std::string::npos ? 14 : 18));
    }
}

// A step of a small model of a family, and what distinguishes it from the family's plain step. A product whose columns
// are not a multiple of 8 does not end in gelu.
struct CountedStep {
    const char* model;
    DType dtype;
    const char* what        = "plain";
    int64_t vocab           = 200;
    int64_t micro_steps     = 1;
    int64_t batch           = 2;
    Recompute recompute     = Recompute::none;
    float dropout           = 0;
    OptimizerKind optimizer = OptimizerKind::adamw;
    int64_t feed_forward    = 64;

    Config config() const {
        Config c       = config_of(*find_preset(model));
        c.layers       = 2;
        c.width        = 32;
        c.heads        = 2;
        c.rope.dim     = c.rope.dim ? 8 : 0;
        c.feed_forward = feed_forward;
        c.context      = 48;
        c.vocab        = vocab;
        return c;
    }
    // The head has 64 rows at a time.
    BatchShape shape() const { return {batch, 48, true, recompute, 0, {dropout, dropout, dropout}}; }
};
static std::vector<CountedStep> counted_steps() {
    std::vector<CountedStep> all;
    for (const char* model : {"gpt2", "pythia-160m", "gpt-j-6b"})
        for (const DType x : block_dtypes) {
            const auto add = [&](const char* what, auto change) {
                CountedStep step{model, x};
                step.what = what;
                change(step);
                all.push_back(step);
            };
            add("plain", [](CountedStep&) {});
            add("accumulated", [](CountedStep& s) { s.micro_steps = 2; });
            add("recompute gelu", [](CountedStep& s) { s.recompute = Recompute::gelu; });
            if (x == DType::F32) continue;  // what follows is the same
            add("ids of 9 bits", [](CountedStep& s) { s.vocab = 300; });
            add("whole chunks", [](CountedStep& s) { s.batch = 4; });
            add("recompute norm", [](CountedStep& s) { s.recompute = Recompute::norm; });
            add("recompute block", [](CountedStep& s) { s.recompute = Recompute::block; });
            add("dropout", [](CountedStep& s) { s.dropout = .1f; });
            add("dropout, recompute block", [](CountedStep& s) { s.dropout = .1f, s.recompute = Recompute::block; });
            add("muon", [](CountedStep& s) { s.optimizer = OptimizerKind::muon; });
            add("odd columns", [](CountedStep& s) { s.feed_forward = 60; });
        }
    return all;
}

// The test below runs this one in a process of its own, under the profiler.
TEST_CASE("training steps between profiler marks", "[.steps]") {
    const Device dev("cuda");
    const Comm comm(Ranks{}, 1);
    const volatile std::sig_atomic_t not_asked = 0;
    for (const CountedStep& step : counted_steps()) {
        const Config c = step.config();
        const Scratch s;
        write_shard(s / "text.bin", 4000, -1, c.vocab);
        Model m(c, step.dtype, step.shape(), dev);
        m.dropout = {step.shape().dropout, 1};
        initialise_weights(m, 7);
        const auto optimizer = make_optimizer(m, {step.optimizer});
        optimizer->start_from_weights();
        Loader data({s / "text.bin", step.batch, c.context, c.vocab, 1, 0, 1});
        Step steps(m, *optimizer, comm, data, {Schedule::Kind::constant, 1e-3f, 0.f, 0, 2}, {step.micro_steps});
        CHECK(steps.run(0, not_asked).finite());  // asks cuBLASLt for algorithms
        profiled(m.stream, [&] { CHECK(steps.run(1, not_asked).finite()); });
    }
}

// The emulator counts a product as one kernel, and so does the model. On a GPU cuBLASLt may split its sums, which takes
// another kernel.
TEST_CASE("launches: a step has as many as the time model says", "[.emulated][counts]") {
    nlohmann::json names;
    const auto steps = counted_steps();
    for (const CountedStep& s : steps)
        names.push_back(json_of(fmt::format("{}, {}", s.model, s.what), name_of(s.dtype), {}));
    const auto counted = count_test("training steps between profiler marks", names);
    for (size_t i = 0; i < steps.size(); i++) {
        const CountedStep& s = steps[i];
        double zeroed = 0, launches = 0;
        for (const StepOp& op : step_ops(s.config(), s.shape(), s.dtype, s.micro_steps, s.optimizer))
            (op.name == std::string("zero") ? zeroed : launches) += op.kernels * op.calls;
        CAPTURE(counted[i].op, counted[i].dtype);
        CHECK(counted[i].launches == launches);
        CHECK(counted[i].zeroed == zeroed);
    }
}

// Tokens of models with one and with two layers, for a batch that takes our own products and for one that does not.
static const auto token_models  = {"gpt2", "pythia-160m"};
static const auto token_batches = {1, 9};

TEST_CASE("tokens of generation between profiler marks", "[.tokens]") {
    const Device dev("cuda");
    for (const char* name : token_models)
        for (const int64_t batch : token_batches)
            for (const int64_t layers : {1, 2}) {
                Config c = config_of(*find_preset(name));
                c.layers = layers;
                c.vocab  = 64;
                Model m(c, DType::BF16, {1, 1, false}, dev);
                initialise_params(m.params, c, 1, m.stream);
                Generator g(m, batch, 300, Sampling{0.8f, 0, 0.95f});
                g.feed(std::vector<std::vector<int32_t>>(size_t(batch), std::vector<int32_t>(200, 5)));
                g.choose();
                g.next();  // does the work, and records the graph
                g.next();
                profiled(m.stream, [&] { g.next(); });
            }
}

TEST_CASE("launches of a token: 5 of a block for few rows, 7 for more, and 4 beside the blocks",
          "[.emulated][counts]") {
    nlohmann::json tokens;
    for (const char* name : token_models)
        for (const int batch : token_batches)
            for (const int layers : {1, 2})
                tokens.push_back(json_of(fmt::format("{} {} {}", name, batch, layers), "bf16", {}));
    const auto counted = count_test("tokens of generation between profiler marks", tokens);
    for (size_t i = 0; i < counted.size(); i += 2) {
        const Counted &one = counted[i], &two = counted[i + 1];
        CAPTURE(one.op, one.launches, two.launches);
        const bool few     = one.op.find(" 1 ") != std::string::npos;
        // Pythia's block has one pass over the stream less, but the erf form of gelu is a kernel of its own.
        const double block = few ? 5 : 7;
        CHECK(two.launches - one.launches == block);
        CHECK(one.launches == block + 4);
    }
}

TEST_CASE("ops that memory bounds move at most 1.25 times the fewest bytes", "[.emulated][counts]") {
    const auto rows =
        count_ops("add,dropout,layernorm,gelu,embedding,cross_entropy,adamw,norm,rope,decode,choose", 128);
    int bounded = 0;
    for (const Counted& c : rows) {
        if (c.cost.flops) continue;
        bounded++;
        CAPTURE(c.op, c.dtype, c.bytes(), c.cost.bytes);
        CHECK(c.bytes() <= 1.25 * c.cost.bytes);
        CHECK(c.bytes() >= 0.9 * c.cost.bytes);  // less: a wrong formula, or an op that left something out
    }
    CHECK(bounded >= 25);
}

TEST_CASE("attention has no bank conflicts and reads and writes everything once", "[.emulated][counts]") {
    for (const Counted& c : count_ops("attention", 128)) {
        CAPTURE(c.op, c.dtype, c.conflicts, c.bytes(), c.cost.bytes);
        CHECK(c.conflicts == 0);
        CHECK(c.bytes() <= 1.25 * c.cost.bytes);
        if (c.dtype == "bf16" && c.cost.flops) CHECK(c.tensor_flops >= c.cost.flops);
    }
}

TEST_CASE("every tiling of attention gives what the ops give, without bank conflicts", "[.emulated][counts]") {
    const Scratch s;
    const Ran r =
        run(s, "bench_ops", "--device cuda --batch 1 --context 130 --variants --profiled " + quoted(s / "ops.json"), "",
            "EMU_CHECK=all scripts/emulate --profile " + quoted(s / "counts.json") + " ");
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);  // bench_ops compares the results
    const auto variants = read_counts(s / "ops.json", s / "counts.json");
    CHECK(variants.size() >= 20);
    for (const Counted& c : variants) {
        CAPTURE(c.op);
        CHECK(c.conflicts == 0);
        CHECK(c.tensor_flops >= c.cost.flops);
    }
}
