#include "host.h"

#include "bindings.h"
#include "evaluate.h"
#include "garbage.h"
#include "impact.h"
#include "layer.h"
#include "methods.h"
#include "output.h"
#include "pages.h"
#include "room.h"
#include "syntax.h"

#include <sstream>
#include <sys/resource.h>

static const size_t WORTH_TWO_PROCESSES = 200000;  // bytes of source text to parse

static void write_strings(Json &json, const std::vector<std::string> &texts) {
    json.open('[');
    for (auto &text : texts)
        json.string(text);
    json.close(']');
}

static std::vector<Statement> statements_of(const std::vector<Step> &steps) {
    std::vector<Statement> statements;
    for (const Step &step : steps)
        statements.push_back({step.module, step.file, step.text, step.line});
    return statements;
}

Host::Host(const char *path, const char *libraries, const char *parsed) : libraries(libraries) {
    put_off_collection();
    image.load(path);
    // Found here, they are known to all children.
    image.look_for({jl_module_type, core_type("MethodTable"), jl_code_instance_type, jl_method_type});
    timings.lap("load");
    if (*parsed)
        trees.reset(new Trees(parsed));
    revision.reset(new Steps(image, this->libraries));
    started_in = enter_newest_world();
}

void Host::warm(const std::string &record) {
    image.look_for({jl_method_instance_type, jl_datatype_type, jl_linenumbernode_type});
    note_what_is_valid();
    use_large_pages(image);
    before.reset(new Memory(image));
    dependencies_in(record);
    census();
}

void Host::facts() {
    Json json;
    json.open('{').key("version").string(jl_ver_string()).key("fvars").number(image.fvars);
    json.key("gvars").number(image.gvars).key("native").number((long long)image.order.size());
    json.key("files").open('[');
    IncludedFiles files;
    for (size_t i = 0; i < files.size(); i++)
        json.open('[').string(module_text(files.module(i))).string(files.path(i)).close(']');
    json.close(']').close('}');
    answer(json);
}

void Host::parse(const std::vector<Text> &texts) {
    size_t size = 0;
    for (auto &text : texts)
        size += text.text.size();
    auto statements_of = [&](size_t first, size_t step) {
        Json json;
        json.open('[');
        for (size_t i = first; i < texts.size(); i += step)
            write_statements(json, texts[i].text, texts[i].check);
        return json.close(']').text;
    };
    Json json;
    json.open('[');
    if (texts.size() < 2 || size < WORTH_TWO_PROCESSES) {
        json.raw(statements_of(0, 1));
    }
    else {
        for (auto &part : in_children("parsing", {[&] { return statements_of(0, 2); },
                                                  [&] { return statements_of(1, 2); }}))
            json.raw(part);
    }
    answer(json.close(']'));
}

void Host::users(const std::string &module_name, const std::string &name) {
    jl_module_t *module = find_module(image, module_name);
    if (!module)
        fail("there is no module " + module_name);
    Json json;
    write_users(json, image, module, jl_symbol(name.c_str()));
    answer(json);
}

void Host::native() {
    Json json;
    json.open('[');
    for (jl_code_instance_t *code : image.order)
        if (code->max_world == ALWAYS && jl_is_method(code->def->def.value))
            json.string(type_text(code->def->specTypes));
    json.close(']');
    answer(json);
}

void Host::trial(const std::vector<Step> &steps, bool with_reason) {
    note_what_is_valid();
    Json json;
    json.raw(in_child("evaluating the definitions", [&] {
        Json result;
        result.open('{');
        revision->effects.watch();
        revision->perform(steps, result);
        result.key("effects");
        revision->effects.write(result);
        if (with_reason)
            result.key("new_code_reason").string(delta->why_no_code_can_be_kept(enter_newest_world()));
        result.close('}');
        return result.text;
    }));
    answer(json);
}

void Host::census(const std::string &path, const std::vector<Step> &steps) {
    StandardLibraries found(libraries);
    Json json;
    write_strings(json, census().take(statements_of(steps), path));
    answer(json);
}

void Host::keep_parsed(const std::string &path, const std::vector<Step> &steps) {
    Trees::keep(statements_of(steps), path);
    answer(Json().raw("null"));
}

void Host::computed(const std::string &path, const std::string &dependencies, const std::vector<Step> &steps) {
    note_what_is_valid();
    if (!go_on_in_child("evaluating the definitions"))
        return;
    Json json;
    json.open('{');
    evaluate_for_good(json, steps);
    json.key("never_generated").open('[');
    for (jl_method_t *method : census().never_generated())
        json.open('[').string(jl_symbol_name(method->file)).number(method->line).close(']');
    timings.begin();
    cut_off(dependencies);
    json.close(']').key("computed").open('[');
    in_child(
        "asking the census",
        [&] {  // which leaves specializations behind
            if (!path.empty())
                for (uint32_t number : census().affected(path, started_in))
                    json.number(number);
            answer(json.close(']').close('}'));
            return "";
        },
        [&] {  // in all likelihood basedev will want it, which now considers the answer
            if (new_code_reason.empty())
                generate();
        });
    for (std::string decision; (decision = requests.line_alone()) != "keep";) {
        if (decision == "drop")
            back_to_parent();
        std::istringstream words(decision);
        std::string verb;
        size_t count = 0;
        words >> verb >> count;
        if (verb != "gave")
            fail("an unknown request: " + decision);
        results({}, take_steps(count));
    }
}

void Host::results(const std::vector<Step> &steps, const std::vector<Step> &evaluated) {
    census();  // made here, it is known to both children
    FromBothEnds share(evaluated.size());
    Json json;
    json.open('[');
    for (auto &part : in_children("evaluating statements", {results_of(evaluated, steps, share, false),
                                                            results_of(evaluated, steps, share, true)}))
        json.raw(part);
    answer(json.close(']'));
}

void Host::compare(const std::vector<Step> &steps, const std::vector<Step> &compared) {
    const char *doing = "evaluating statements";
    FromBothEnds before(compared.size()), once_more(compared.size()), after(compared.size());
    auto both = in_children(doing, {results_of(compared, {}, before, false),
                                    results_of(compared, steps, after, false)});
    std::string again = both[0] == both[1] ? both[0] : in_child(doing, results_of(compared, {}, once_more, false));
    Json json;
    json.open('[').raw(both[0]).raw(again).raw(both[1]);
    answer(json.close(']'));
}

void Host::apply(const std::vector<Step> &steps) {
    note_what_is_valid();
    Json json;
    json.open('{');
    evaluate_for_good(json, steps);
    answer(json.close('}'));
}

void Host::impact(const std::string &dependencies, const std::vector<Step> &steps) {
    note_what_is_valid();
    Json json;
    json.raw(in_child("following what the edit invalidates", [&] {
        Json result;
        result.open('{');
        Impact impact(image);
        evaluate_for_good(result, steps);
        impact.follow(method_changes(image, started_in));
        cut_off(dependencies);
        if (new_code_reason.empty())
            delta->collect(enter_newest_world());
        result.key("no_cutoff_reason").string(delta->no_cutoff_reason);
        impact.write(result, delta->instances, enter_newest_world());
        return result.close('}').text;
    }));
    answer(json);
}

void Host::record_dependencies(const std::string &path) {
    enter_newest_world();
    Json json;
    json.open('{').key("unstable").open('[');
    for (jl_method_instance_t *instance : Dependencies::record(image, path))
        json.string(type_text(instance->specTypes));
    json.close(']').close('}');
    answer(json);
}

void Host::compile(const std::string &directory, const std::string &dependencies) {
    timings.begin();
    if (!is_cut_off)
        cut_off(dependencies);
    Json json;
    json.open('{').key("new_code_reason").string(new_code_reason);
    if (!layer && !delta->old_code_was_used())
        generate();
    if (!layer) {
        json.key("needs_julias_rule").string("a generator that the edit defines has to run with all that changed");
        answer(json.close('}'));
        return;
    }
    if (!layer->chained && delta->inferred)
        delta->forget_ended_code();
    Output(image, before.get(), directory, timings).write(json, *layer, "delta");
    json.key("replaced").open('[');
    if (layer->chained)
        for (auto &pair : layer->replaced(started_in, enter_newest_world(), delta->successors()))
            json.open('[').number(pair.first).number(pair.second).close(']');
    json.close(']').key("inferred").number((long long)delta->inferred);
    json.key("no_cutoff_reason").string(delta->no_cutoff_reason).key("timings");
    timings.write(json);
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    json.key("peak_kib").number(usage.ru_maxrss).close('}');
    answer(json);
}

void Host::rebase(const std::string &directory) {
    collect_as_usual();
    size_t world = enter_newest_world();
    std::vector<jl_method_instance_t *> instances;
    std::unordered_set<jl_method_instance_t *> listed;
    for (jl_code_instance_t *code : image.order)
        if (code->max_world == ALWAYS && listed.insert(code->def).second)
            instances.push_back(code->def);
    leave_room_for_names(image);
    layer.reset(new Layer(image, false));
    layer->generate(instances, world);
    timings.lap("generate");
    Json json;
    json.open('{');
    Output(image, before.get(), directory, timings).write(json, *layer, "base");
    json.key("timings");
    timings.write(json);
    json.close('}');
    answer(json);
}

std::function<std::string()> Host::results_of(const std::vector<Step> &statements, const std::vector<Step> &steps,
                                              const FromBothEnds &share, bool from_last) {
    return [this, &statements, steps, &share, from_last] {
        Json ignored, results;
        ignored.open('{');
        if (!steps.empty())
            revision->perform(steps, ignored);
        else if (is_cut_off)
            delta->take_back_cutoff();
        StandardLibraries found(libraries);
        write_strings(results, census().results(statements_of(statements), share, from_last, trees.get()));
        return results.text;
    };
}

void Host::note_what_is_valid() {
    if (!delta)
        delta.reset(new Delta(image));
}

Census &Host::census() {
    if (!known_census)
        known_census.reset(new Census(image));
    return *known_census;
}

Dependencies &Host::dependencies_in(const std::string &record) {
    if (!dependencies || recorded_in != record) {
        dependencies.reset(new Dependencies);
        dependencies->read(image, record);
        recorded_in = record;
    }
    return *dependencies;
}

void Host::evaluate_for_good(Json &json, const std::vector<Step> &steps) {
    timings.begin();
    revision->perform(steps, json);
    json.key("invalidated").number((long long)delta->invalidated());
    timings.lap("evaluate");
    new_code_reason = delta->why_no_code_can_be_kept(enter_newest_world());
    json.key("new_code_reason").string(new_code_reason);
    timings.lap("check");
}

// There is no layer after it where what Julia ended has to stay so.
void Host::generate() {
    bool anew = !new_code_reason.empty();
    if (anew)
        delta->end_all_code();
    size_t world = enter_newest_world();
    delta->collect(world);
    timings.lap("infer");
    if (delta->old_code_was_used())
        return;
    layer.reset(new Layer(image, !anew));
    layer->generate(delta->instances, world);
    timings.lap("generate");
}

void Host::cut_off(const std::string &record) {
    if (new_code_reason.empty() && !record.empty())
        delta->cut_off(enter_newest_world(), dependencies_in(record));
    is_cut_off = true;
    timings.lap("infer");
}
