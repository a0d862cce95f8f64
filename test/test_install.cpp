// test_install.cpp - what a user meets around the programs: make's targets, the scripts, man pages and completion, and
// installing
#include <regex>
#include <set>

#include "data/files.h"
#include "test/programs.h"

namespace {

std::vector<std::string> scripts() {
    std::vector<std::string> all;
    for (const char* folder : {"scripts", "data"})
        for (const auto& entry : fs::directory_iterator(folder))
            if (entry.path().extension() == ".sh") all.push_back(entry.path().string());
    return all;
}

bool has_tool(const Scratch& s, const std::string& name) {
    if (shell(s, "command -v " + name).code == 0) return true;
    fmt::print(stderr, "skipped: there is no {}\n", name);
    return false;
}

// The files below a folder, by their path in it.
std::set<std::string> files_below(const std::string& folder) {
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (!entry.is_directory()) files.insert(entry.path().string().substr(folder.size() + 1));
    return files;
}

// The options that --help lists.
std::set<std::string> options_of(const Scratch& s, const std::string& program) {
    std::set<std::string> names{"--help", "--version"};
    const std::string help = run(s, program, "--help").out;
    const std::regex line("\n  (--[a-z0-9-]+)");
    for (std::sregex_iterator i(help.begin(), help.end(), line), end; i != end; ++i) names.insert((*i)[1]);
    return names;
}

}  // namespace

TEST_CASE("every script says what it does, and refuses what it does not know", "[install]") {
    const Scratch s;
    REQUIRE(scripts().size() > 10);
    for (const std::string& script : scripts()) {
        CAPTURE(script);
        const Ran help = shell(s, script + " --help");
        CHECK(help.code == 0);
        CHECK(help.out.rfind(fs::path(script).filename().string() + " - ", 0) == 0);
        CHECK(help.out.find("set -euo") == std::string::npos);
        CHECK(help.err.empty());
        const Ran unknown = shell(s, script + " --nosuch");
        CHECK(unknown.code == 2);
        CHECK(missing_words(unknown.err, {"error: ", "--help"}) == "");
    }
}

TEST_CASE("make help names every target", "[install]") {
    const Scratch s;
    const Ran help = shell(s, "env -u MAKEFLAGS make -s help CUDA=0");
    CHECK(help.code == 0);
    std::smatch phony;
    const std::string makefile = read_text("Makefile");
    REQUIRE(std::regex_search(makefile, phony, std::regex("\n.PHONY: ([^\n]*)\n")));
    std::istringstream targets(phony[1]);
    for (std::string target; targets >> target;) {
        if (target == "all" || target == "libraries" || target == "FORCE") continue;
        CAPTURE(target);
        CHECK(help.out.find("make " + target + " ") != std::string::npos);
    }
    CHECK(missing_words(help.out, {"CXX=", "V=1", "ONEDNN=0", "PREFIX="}) == "");
    CHECK(help.out.find('#') == std::string::npos);
}

TEST_CASE("make says what it lacks in a sentence", "[install]") {
    const Scratch s;
    const std::string build = "env -u MAKEFLAGS make CUDA=0 BUILD=" + quoted(s / "b") + " ";
    const Ran compiler      = shell(s, build + "CXX=nosuch++");
    CHECK(compiler.code == 2);
    CHECK(missing_words(compiler.err, {"the compiler CXX=nosuch++ is not installed"}) == "");
    const Ran products = shell(s, build + "ONEDNN=0");
    CHECK(products.code == 2);
    CHECK(missing_words(products.err, {"ONEDNN=0", "nvcc"}) == "");
}

TEST_CASE("without sudo, setup.sh unpacks the packages and goes without Open MPI", "[install]") {
    const Scratch s;
    for (const char* folder : {"scripts", "tools"}) fs::create_directory(s / folder);
    fs::copy("scripts/setup.sh", s / "scripts");
    const auto tool = [&](const std::string& name, const std::string& body) {
        write_text(s / ("tools/" + name), "#!/bin/sh\n" + body + "\n");
        fs::permissions(s / ("tools/" + name), fs::perms::owner_all);
    };
    for (const char* name : {"bash", "sh", "awk", "cat", "dirname", "grep", "mkdir", "rm", "sed", "touch", "make"})
        REQUIRE(shell(s, "ln -s \"$(command -v " + std::string(name) + ")\" " + quoted(s / "tools")).code == 0);
    const std::string setup =
        "PATH=" + quoted(s / "tools") + " CXX=compiler " + quoted(s / "scripts/setup.sh") + " 2>&1";
    // A user who is not root, and a compiler that finds all headers but those of Open MPI, and fmt's when unpacked.
    tool("id", "case $1 in -u) echo 1000;; *) echo ann;; esac");
    tool("compiler",
         "[ $1 != -print-multiarch ] || exit 0; read -r line; case $line in *mpi.h*) exit 1;; *fmt*) [ -e "
         "build-deps/fmt ];; esac");
    tool("apt-get",
         "case \"$*\" in *print-uris*) echo \"'http://there/a.deb' libfmt-dev_1_all.deb 1\" ;; "
         "*download*) touch libfmt-dev_1_all.deb;; *) echo \"apt-get $*\";; esac");
    tool("dpkg-deb", "touch \"$3/fmt\"");
    const Ran unpacked = shell(s, setup);
    CAPTURE(unpacked.out);
    CHECK(unpacked.code == 0);
    CHECK(missing_words(unpacked.out, {"there is no sudo", "build-deps: libfmt-dev\n", "is installed"}) == "");
    const Ran again = shell(s, setup);
    CHECK(again.code == 0);
    CHECK(again.out.empty());
    // With sudo, Open MPI is installed as well.
    tool("sudo", "echo \"sudo $*\"");
    for (const char* without : {"", "ONEDNN=0 "})
        CHECK(shell(s, without + setup).out.find("installing: libopenmpi-dev\n") != std::string::npos);
}

TEST_CASE("a build shows a heading and a short line for each file, and its commands when they are asked for",
          "[install]") {
    const Scratch s;
    const std::string build = "env -u MAKEFLAGS make CUDA=0 BUILD=" + quoted(s / "b") + " " + quoted(s / "b/austen");
    const Ran brief         = shell(s, build);
    CAPTURE(brief.out, brief.err);
    CHECK(brief.code == 0);
    CHECK(missing_words(brief.out, {"building", "minute", "data/austen.cpp"}) == "");
    CHECK(brief.out.find("-std=") == std::string::npos);
    const Ran again = shell(s, build);
    CHECK(again.out.find("building") == std::string::npos);
    CHECK(missing_words(shell(s, build + " -n -B V=1").out, {"-std=c++17", "data/austen.cpp"}) == "");
}

TEST_CASE("make install puts programs, man pages and completion in place, and make uninstall removes them",
          "[install]") {
    const Scratch s;
    fs::create_directories(s / "a root/opt/share/man/man1");
    write_text(s / "a root/opt/share/man/man1/other.1", "of another program");
    const auto before = files_below(s / "a root");
    std::string built;  // the programs are there already, and are not built again for another commit
    for (const char* p : {"train_gpt", "infer_gpt", "tokenize"}) built += " -o " + quoted(build_folder() + "/" + p);
    if (exists(build_folder() + "/glibc-hwcaps")) built += " PORTABLE=1";
    const std::string where =
        " CUDA=0 BUILD=" + quoted(build_folder()) + " PREFIX=/opt DESTDIR=" + quoted(s / "a root") + built;
    const Ran installed = shell(s, "make install" + where);
    CAPTURE(installed.out, installed.err);
    REQUIRE(installed.code == 0);
    for (const char* p : {"train_gpt", "infer_gpt", "tokenize"}) {
        CAPTURE(p);
        const std::string root = s / "a root/opt/";
        CHECK(shell(s, "cd / && " + quoted(root + "bin/" + p) + " --version").code == 0);
        CHECK(missing_words(read_text(root + "share/man/man1/" + p + ".1"),
                            {".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SS", ".SH EXAMPLES",
                             ".SH EXIT STATUS", ".SH FILES"}) == "");
        CHECK(exists(root + "share/bash-completion/completions/" + p));
    }
    CHECK(files_below(s / "a root").size() >= before.size() + 9);
    CHECK(shell(s, "make uninstall" + where).code == 0);
    CHECK(files_below(s / "a root") == before);
    CHECK_FALSE(exists(s / "a root/opt/lib/gpt.cu"));
}

TEST_CASE("the man page has every option and passes groff without a warning", "[install]") {
    const Scratch s;
    const auto program = GENERATE(as<std::string>{}, "train_gpt", "infer_gpt", "tokenize");
    CAPTURE(program);
    const Ran page = shell(s, "scripts/manual.sh man " + build_folder() + "/" + program);
    CAPTURE(page.err);
    REQUIRE(page.code == 0);
    CHECK(page.err.empty());
    CHECK(page.out.find('@') == std::string::npos);
    for (const char c : page.out) {
        if (uint8_t(c) < 0x80) continue;
        FAIL_CHECK("roff reads bytes: this page has one that is not ASCII");
        break;
    }
    const auto options = options_of(s, program);
    REQUIRE(options.size() > 10);
    for (const std::string& option : options)
        CHECK(page.out.find(std::regex_replace(option, std::regex("-"), "\\-")) != std::string::npos);
    if (!has_tool(s, "groff")) return;
    write_text(s / "page.1", page.out);
    const Ran groff = shell(s, "groff -man -Tutf8 -ww " + quoted(s / "page.1"));
    CHECK(groff.code == 0);
    CHECK(groff.err == "");
    CHECK(groff.out.size() > 2000);
}

TEST_CASE("bash completes every option, the words of a choice, and files", "[install]") {
    const Scratch s;
    const auto program = GENERATE(as<std::string>{}, "train_gpt", "infer_gpt", "tokenize");
    REQUIRE(
        shell(s, "scripts/manual.sh bash " + build_folder() + "/" + program + " >" + quoted(s / "completion")).code ==
        0);
    fs::create_directories(s / "files/a folder");
    write_text(s / "files/a file", "");
    // What bash offers for the last word of a line, one a line, in the order of the alphabet.
    const auto offered = [&](const std::string& words) {
        const std::string script =
            "set -u; source " + quoted(s / "completion") + "; cd " + quoted(s / "files") + "; COMP_WORDS=(" + program +
            " " + words + "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))" + "; _" + program + " " + program +
            " \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"" + "; printf '%s\\n' \"${COMPREPLY[@]-}\" | LC_ALL=C sort";
        const Ran r = shell(s, "bash -c " + quoted(script));
        CAPTURE(words, r.err);
        CHECK(r.code == 0);
        CHECK(r.err == "");
        return r.out;
    };
    for (const std::string& option : options_of(s, program)) CHECK(offered(option).find(option + "\n") == 0);
    CHECK(offered("--nosuch") == "\n");
    CHECK(offered("--threads ''") == "\n");
    const std::string file = program == "tokenize" ? "--input x" : "--tokenizer";
    CHECK(offered(file + " a") == "a file\na folder\n");
    CHECK(offered(file + " = 'a f'") == "a file\na folder\n");
    if (program == "tokenize") {
        CHECK(offered("--eot ''") == "after\nbefore\nnone\n");
        CHECK(offered("--mix 0.5 : 'a fi'") == "a file\n");
    } else {
        CHECK(offered("--device c") == "cpu\ncuda\n");
        CHECK(offered("--device = cu") == "cuda\n");
        CHECK(offered("--device =") == "auto\ncpu\ncuda\n");
        CHECK(offered("--model a") == "a folder\n");
        CHECK(offered("--sync --devi") == "--device\n");
    }
    if (program == "infer_gpt") {
        CHECK(offered("--eval la") == "lambada\n");
        CHECK(offered("--eval lambada 'a fi'") == "a file\n");
    }
}

// The quick start with programs that only say how they are called. train_gpt stops at step $STOP of 1900.
TEST_CASE("the quick start goes on with a run that was stopped", "[install]") {
    const Scratch s;
    for (const char* folder : {"scripts", "data/sets/austen"}) fs::create_directories(s / folder);
    fs::copy_file("scripts/quickstart.sh", s / "scripts/quickstart.sh");
    for (const char* program : {"data/austen.sh", "tokenize", "infer_gpt"}) {
        write_text(s / program, "#!/bin/sh\n");
        fs::permissions(s / program, fs::perms::owner_all);
    }
    write_text(s / "train_gpt", R"(#!/bin/sh
mkdir -p "$2/checkpoints" && ln -sfn "$STOP" "$2/checkpoints/latest" && mkdir -p "$2/checkpoints/$STOP"
printf '{\n  "options": {\n    "--steps": "1900",\n' >"$2/run.json"
echo "train_gpt $*"
)");
    fs::permissions(s / "train_gpt", fs::perms::owner_all);
    const auto quick_start = [&](const std::string& stop) {
        const Ran r = shell(s, "STOP=" + stop + " " + quoted(s / "scripts/quickstart.sh"));
        CAPTURE(r.out, r.err);
        CHECK(r.code == 0);
        return r.out;
    };
    CHECK(missing_words(quick_start("0000400"), {"train_gpt --out runs/quickstart\n"}) == "");
    CHECK(missing_words(quick_start("0000800"), {"runs/quickstart was stopped after step 400 of 1900",
                                                 "train_gpt --out runs/quickstart --resume\n",
                                                 "--model runs/quickstart/checkpoints/latest"}) == "");
    CHECK(missing_words(quick_start("0001900"), {"stopped after step 800", "--resume\n"}) == "");
    CHECK(missing_words(quick_start("0000010"), {"train_gpt --out runs/quickstart-2\n"}) == "");
    CHECK(missing_words(quick_start("0001900"), {"runs/quickstart-2 was stopped after step 10 of 1900"}) == "");
}

TEST_CASE("a program without a CUDA half says so where there is a driver", "[install]") {
    const Scratch s;
    if (run(s, "train_gpt", "--version").out.find("without a CUDA half") == std::string::npos) return;
    write_text(s / "driver.cpp", "");
    REQUIRE(shell(s, "${CXX:-g++} -shared -o " + quoted(s / "libcuda.so.1") + " " + quoted(s / "driver.cpp")).code ==
            0);
    const std::string driver = "LD_LIBRARY_PATH=" + quoted(s.path) + " ";
    const Ran any            = run(s, "train_gpt", "--model nano --context 32 --dry-run", "", driver);
    CHECK(any.code == 0);
    CHECK(missing_words(any.out, {"no GPU is used", "built without its CUDA half", "running on the CPU"}) == "");
    CHECK(any.err == "");
    const Ran cpu = run(s, "train_gpt", "--model nano --context 32 --dry-run --device cpu", "", driver);
    CHECK((cpu.out + cpu.err).find("no GPU") == std::string::npos);
    const Ran cuda = run(s, "train_gpt", "--model nano --context 32 --dry-run --device cuda", "", driver);
    CHECK(cuda.code == 2);
    CHECK(missing_words(cuda.err, {"--device cuda: ", "built without its CUDA half"}) == "");
}
