// Evaluating and deleting definitions in the running process.
#pragma once

#include "inference.h"
#include "methods.h"

#include <string>

// The module of this full name (`Base.Meta`, `Random`), or null.
jl_module_t *find_module(const Image &image, const std::string &name);

// The files that Julia included (Base._included_files), in that order, each with the module that did. Those of Base are
// known to an image by their names beside the first one.
class IncludedFiles {
public:
    IncludedFiles();

    size_t size() const { return jl_array_len(list); }
    jl_module_t *module(size_t i) const { return (jl_module_t *)jl_fieldref(jl_arrayref(list, i), 0); }
    std::string path(size_t i) const;
    std::string full(const std::string &file) const { return file[0] == '/' ? file : directory + file; }
    // Adds a file behind the file `after`.
    void add(jl_module_t *module, const std::string &file, const std::string &after);
    void remove(jl_module_t *module, const std::string &file);

private:
    jl_array_t *list;
    std::string directory;

    // Index of the file that the owner includes, or any module if null.
    size_t find(const std::string &file, jl_module_t *owner) const;
    void change(const char *function, size_t index, jl_value_t *value);
};

// Does work of the runtime's, which may throw. Returns an empty string, or Julia's own message about the error.
std::string message_of_error(const std::function<void()> &work);

// The code that `text` is, as if it stood at `line` of `file`. It must be free of errors, whose messages would have other lines.
jl_value_t *parsed_at(const std::string &file, long line, const std::string &text);

// Evaluates `text` at top level of a module as if it stood at `line` of `file`.
// Returns what `message_of_error` does.
std::string evaluate(jl_module_t *module, const std::string &file, long line, const std::string &text);

// While an object of this class lives, what has no native code is interpreted, so that nothing is compiled for a single
// use; after a while, in case it computes something, compiled as usual. Nothing of that is left behind.
class Interpreting {
public:
    Interpreting();
    ~Interpreting();

private:
    CachedResults cached;
    const int8_t before;
};

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
