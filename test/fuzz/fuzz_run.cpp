// fuzz_run.cpp - the files of a run that --resume reads: run.json, state.json and log.jsonl
#include "gpt/checkpoint.h"
#include "gpt/log.h"
#include "gpt/resume.h"
#include "test/fuzz/fuzz.h"
#include "test/scratch.h"

// The first byte chooses the file, the rest is its content.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    static const Scratch folder;
    const char* names[]    = {"run.json", "state.json", "log.jsonl"};
    const int chosen       = data[0] % 3;
    const std::string name = names[chosen];
    write_text(folder / name, std::string(text_of(data + 1, size - 1)));
    return expecting_errors([&] {
        if (chosen == 0) {
            EarlierStarts earlier;
            const Flags flags("train_gpt", "trains");
            with_resumed_options({"train_gpt", "--resume", "--out=" + folder.path}, 1, flags, earlier);
            schedule_at(7, earlier, {});
        } else if (chosen == 1) {
            read_state(folder.path);
        } else {
            LogSettings settings;
            settings.folder     = folder.path;
            settings.resumed_at = 5;
            const Log log(settings);
        }
    });
}
