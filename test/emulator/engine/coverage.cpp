// coverage.cpp - see coverage.h
#include "coverage.h"

#include <cstdio>

#include "forms.h"

namespace emu {

void print_coverage(ptx::Module& m) {
    struct Count {
        size_t uses    = 0;
        const Row* row = nullptr;
        std::string where;
    };
    std::map<std::string, Count> forms;
    for (auto& f : m.functions) {
        ptx::parse_body(*f);
        for (const auto& i : f->code) {
            Count& c = forms[i.form];
            if (!c.uses++) c.row = find_row(i), c.where = f->name + ", PTX line " + std::to_string(i.line);
        }
    }
    size_t missing = 0;
    for (const auto& [form, c] : forms) {
        std::printf("%8zu  %-60s %s\n", c.uses, form.c_str(),
                    c.row ? c.row->pattern : ("MISSING, first in " + c.where).c_str());
        missing += !c.row;
    }
    std::printf("emulate: %zu instruction forms, %zu missing; the table has %zu rows\n", forms.size(), missing,
                row_count());
}

}  // namespace emu
