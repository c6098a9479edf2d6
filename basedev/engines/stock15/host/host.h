// What is asked of an image, and made on it: each public function is a request, of which main.cpp tells the words and
// the answer.
#pragma once

#include "census.h"
#include "child.h"
#include "delta.h"
#include "dependencies.h"
#include "heap.h"
#include "image.h"
#include "json.h"
#include "layer.h"
#include "requests.h"
#include "steps.h"
#include "timings.h"
#include "trees.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

class Host {
public:
    // `parsed` are the image's statements, as keep_parsed has written them, if it is not empty.
    Host(const char *path, const char *libraries, const char *parsed = "");

    // Finds out what any edit will ask for, as far as it is no matter of the runtime's. The record of dependencies is
    // in the file.
    void warm(const std::string &record);

    void facts();
    void parse(const std::vector<Text> &texts);
    void users(const std::string &module_name, const std::string &name);
    void native();
    void trial(const std::vector<Step> &steps, bool with_reason);
    void census(const std::string &path, const std::vector<Step> &steps);
    void keep_parsed(const std::string &path, const std::vector<Step> &steps);
    void computed(const std::string &path, const std::string &dependencies, const std::vector<Step> &steps);
    void results(const std::vector<Step> &steps, const std::vector<Step> &evaluated);
    void compare(const std::vector<Step> &steps, const std::vector<Step> &compared);
    void apply(const std::vector<Step> &steps);
    void impact(const std::string &dependencies, const std::vector<Step> &steps);
    void record_dependencies(const std::string &path);
    void compile(const std::string &directory, const std::string &dependencies);
    void rebase(const std::string &directory);

private:
    const std::string libraries;  // the directory of the standard libraries
    Image image;
    size_t started_in = 0;  // the world
    std::unique_ptr<Memory> before;
    std::unique_ptr<Delta> delta;
    std::unique_ptr<Steps> revision;
    std::unique_ptr<Census> known_census;
    std::unique_ptr<const Trees> trees;
    std::unique_ptr<Dependencies> dependencies;
    std::string recorded_in;
    std::string new_code_reason;  // why no native code of the image can be kept after what was evaluated
    bool is_cut_off = false;
    std::unique_ptr<Layer> layer;
    Timings timings;

    // For a child: what its share of the statements gives after the steps.
    std::function<std::string()> results_of(const std::vector<Step> &statements, const std::vector<Step> &steps,
                                            const FromBothEnds &share, bool from_last);
    // Takes a moment that is spared where nothing of the image is invalidated. To be called before anything is evaluated.
    void note_what_is_valid();
    Census &census();
    Dependencies &dependencies_in(const std::string &record);
    void evaluate_for_good(Json &json, const std::vector<Step> &steps);
    void cut_off(const std::string &record);
    void generate();
};
