// Evaluating and deleting definitions in the running process.
#pragma once

#include "methods.h"

#include <string>

// The module of this full name (`Base.Meta`, `Random`), or null.
jl_module_t *find_module(const Image &image, const std::string &name);

// Puts `file` into the list of files that Julia included (Base._included_files), behind the file `after`.
void include_file(jl_module_t *module, const std::string &file, const std::string &after);
// Takes `file` out of it.
void exclude_file(jl_module_t *module, const std::string &file);

// Evaluates `text` at top level of a module as if it stood at `line` of `file`.
// Returns an empty string, or Julia's own message about the error.
std::string evaluate(jl_module_t *module, const std::string &file, long line, const std::string &text);

// While an object of this class lives, logging is off: a replaced docstring is not worth a warning.
class QuietLogging {
public:
    QuietLogging();
    ~QuietLogging();

private:
    int32_t *level = nullptr;
    int32_t before = 0;
};

// While an object of this class lives, packages name each other in `import` as they do while Julia is built: their
// projects are found in this directory (Base.Sys.STDLIB).
class StandardLibraries {
public:
    explicit StandardLibraries(const std::string &directory);
    ~StandardLibraries();

private:
    jl_binding_t *place = nullptr;
    jl_value_t *before = nullptr;
};
