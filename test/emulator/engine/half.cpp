#include "forms.h"
namespace emu { std::vector<Row> half_rows() { return {}; } }
