// What evaluating the sources' statements runs, and what it gives: constants, expansions of macros and generated code
// were computed while Julia was built, and nothing in an image tells from what.
#pragma once

#include "child.h"
#include "image.h"
#include "methods.h"

#include <functional>
#include <string>
#include <vector>

// A statement to be evaluated without effect: names and methods stay as they are.
struct Statement {
    std::string module, file, text;
    long line;
};

class Trees;

class Census {
public:
    explicit Census(const Image &image);

    // Evaluates the statements, some files' together in processes of their own, and writes to a file what each of
    // them ran. Returns what each gives, as `results` does, but only zeros for one that fails.
    std::vector<std::string> take(const std::vector<Statement> &statements, const std::string &path);

    // The numbers of the statements, as they were given to `take`, that ran code or called methods that are others
    // since the world `since`.
    std::vector<uint32_t> affected(const std::string &path, size_t since) const;

    // For each statement what it gives: a digest of the values that it binds and of the methods that it defines, or
    // Julia's message when it fails. Nothing where the other child of `share` finds it out. Those among `trees`, if there are
    // any, need not be parsed.
    std::vector<std::string> results(const std::vector<Statement> &statements, const FromBothEnds &share,
                                     bool from_last, const Trees *trees) const;

    // Methods with a generator that was never called, so that it is not known what it runs.
    std::vector<jl_method_t *> never_generated() const;

private:
    const Image &image;
    std::vector<jl_code_instance_t *> codes;  // of the image, in its order
    std::vector<jl_method_t *> methods;
    std::unordered_map<jl_method_t *, uint32_t> number_of_method;
    std::vector<jl_method_t *> generated;

    // What evaluating a statement gives, without effect.
    std::string result(const Statement &statement, const Trees *trees) const;

    // Calls the generators of the methods that the statement defined in the image, for what they were called for.
    void generate(const Statement &statement, const std::function<void(jl_value_t *)> &made) const;
};
