// The host: a process that embeds Julia on a base image, takes requests on standard input and answers on
// standard output. It does what needs the runtime's insides; basedev decides what is to be done.
//
//   host IMAGE [PARENT [LIBRARIES]]
//   host --serve IMAGE LIBRARIES DEPENDENCIES SOCKET IDLE MEMORY
//
// PARENT is the id of the process that it is to die with, LIBRARIES the directory of the standard libraries,
// DEPENDENCIES the image's record of them (as `dependencies` writes it). With --serve, it does the same for each client of
// a socket, on its connection (serve.h).
//
// A request is a line of words, some of which are the lengths of byte strings that follow it at once. An answer
// is a line with its length in bytes, and that many bytes of JSON. Closing standard input ends the host.
//
//   client NICENESS UMASK LENGTH LENGTH, limits and environment
//                                      (of a server only, no answer) takes over the client's surroundings
//   facts                              versions, the files in the image, sizes of its tables
//   parse COUNT, then COUNT times a line LENGTH CHECK and a text
//                                      the statements in source texts (syntax.h); CHECK is 0 or 1
//   users MODULE NAME                  (lengths) who uses a name (bindings.h)
//   native                             argument types of everything with native code, one a line
//   trial COUNT, then COUNT steps      what the steps do, found out in a child that is thrown away
//   rehearse COUNT, then COUNT steps   the same, and why no native code of the image can be kept, if it can't
//   census LENGTH COUNT, a path, then COUNT evaluate steps
//                                      writes to the path what each of them runs (census.h)
//   computed LENGTH LENGTH COUNT, two paths, then COUNT steps
//                                      {"computed": the numbers of the census's steps that run what the steps change,
//                                      "never_generated": file and line of methods whose generator was never called};
//                                      the paths are those of the census and of the dependencies; either may be empty.
//                                      After that may come `gave COUNT` with so many evaluate steps, what each gives
//                                      now, as two processes found out, each its share; then `drop`, and all is as
//                                      before, or `keep`, as if by `apply`
//   compare COUNT MORE, then COUNT steps, then MORE evaluate steps
//                                      what each of the latter gives before the former, once more, and after them
//   impact LENGTH COUNT, a path, then COUNT steps
//                                      the same, and what they invalidate, through which calls (impact.h), found out in
//                                      a child that is thrown away; the path is that of the dependencies, or empty
//   apply COUNT, then COUNT steps      the same, for good
//   compile LENGTH LENGTH, two paths   after `apply`: writes the layer's objects and heap to a directory; with the record
//                                      of dependencies in a file, or if that has no name, all that Julia ended is new.
//                                      The heap is a recipe (recipe.h), or with a `whole_heap_reason` all of it. Nothing
//                                      is written where early cutoff must not be used: {"needs_julias_rule": why}
//   dependencies LENGTH                writes to a path what results of inference depend on (dependencies.h), and tells
//                                      {"unstable": the argument types of those that come out otherwise when inferred
//                                      alone}
//   rebase LENGTH                      writes all of the image's own code and heap to a directory
//
// A step is one of
//   evaluate LINE MODULE FILE TEXT     (lengths of the last three)
//   delete MODULE NAME SIGNATURE       (lengths) ends the method with this signature (type_text)
//   move FILE FROM TO BY               (length, three numbers) methods and docstrings of these lines are BY further down
//   undocument FROM TO MODULE FILE     (lengths of the last two) takes back the docstrings that stand in these lines
//   unbind MODULE NAME                 (lengths) the name is as if nothing had been bound to it
//   unexport MODULE NAME               (lengths)
#include "bindings.h"
#include "census.h"
#include "child.h"
#include "compare.h"
#include "delta.h"
#include "docstrings.h"
#include "effects.h"
#include "evaluate.h"
#include "garbage.h"
#include "heap.h"
#include "impact.h"
#include "json.h"
#include "layer.h"
#include "lines.h"
#include "logging.h"
#include "pages.h"
#include "room.h"
#include "serve.h"
#include "syntax.h"

#include <julia_version.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <sstream>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

JULIA_DEFINE_FAST_TLS()

namespace {

const off_t ELF_HEADER_ROOM = 64;
const size_t WORTH_TWO_PROCESSES = 200000;  // bytes of source text to parse
const size_t WORTH_SPLITTING = 10;  // CodeInstances; below, the second process costs more than it saves

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

// Seconds by step, in order.
class Timings {
public:
    void begin() { last = now(); }
    void lap(const char *step) {
        double time = now(), took = time - last;
        last = time;
        for (auto &known : steps)
            if (!strcmp(known.first, step)) {
                known.second += took;
                return;
            }
        steps.push_back({step, took});
    }
    void write(Json &json) const {
        json.open('{');
        for (auto &step : steps)
            json.key(step.first).seconds(step.second);
        json.close('}');
    }

private:
    double last = now();
    std::vector<std::pair<const char *, double>> steps;
};

// Requests, read with nothing but read(2): the runtime makes its own standard input non-blocking.
class Requests {
public:
    int file = -1;

    // The next line, and nothing behind it: for a process that reads on in the place of another.
    std::string line_alone() {
        std::string text;
        for (char byte; buffer.empty();) {
            ssize_t got = read(file, &byte, 1);
            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                _exit(0);
            if (byte == '\n')
                return text;
            text += byte;
        }
        fail("a request came too early");
    }

    // The next line without its end. Ends the process when there is none: basedev is gone or done.
    std::string line() {
        size_t end;
        while ((end = buffer.find('\n')) == std::string::npos)
            fill();
        std::string text = buffer.substr(0, end);
        buffer.erase(0, end + 1);
        return text;
    }
    std::string bytes(size_t length) {
        while (buffer.size() < length)
            fill();
        std::string text = buffer.substr(0, length);
        buffer.erase(0, length);
        return text;
    }

private:
    std::string buffer;
    void fill() {
        char chunk[1 << 16];
        ssize_t got = read(file, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            return;
        if (got <= 0)
            _exit(0);  // not through the runtime's exit hooks, which would write its output
        buffer.append(chunk, (size_t)got);
    }
} requests;

int answers = STDOUT_FILENO;

void write_all(int file, const char *bytes, size_t length) {
    while (length) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            fail(std::string("cannot write: ") + strerror(errno));
        bytes += written;
        length -= (size_t)written;
    }
}

void answer(const Json &json) {
    std::string head = std::to_string(json.text.size()) + "\n";
    write_all(answers, head.data(), head.size());
    write_all(answers, json.text.data(), json.text.size());
}

struct Step {
    enum Kind { EVALUATE, DELETE, MOVE, UNDOCUMENT, UNLOG, INCLUDE, EXCLUDE, UNBIND, UNEXPORT } kind;
    long line = 0, to = 0, by = 0;
    std::string module, file, text;
    // DELETE: `text` is the signature, `file` the name; UNBIND, UNEXPORT: the name; INCLUDE: `text` is the file before
};

Step take_step() {
    std::istringstream words(requests.line());
    std::string verb;
    words >> verb;
    Step step;
    if (verb == "evaluate" || verb == "delete" || verb == "include") {
        step.kind = verb == "evaluate" ? Step::EVALUATE : verb == "delete" ? Step::DELETE : Step::INCLUDE;
        size_t module, file, text;
        if (step.kind == Step::EVALUATE)
            words >> step.line;
        words >> module >> file >> text;
        if (!words)
            fail("a malformed step: " + verb);
        step.module = requests.bytes(module);
        step.file = requests.bytes(file);
        step.text = requests.bytes(text);
    }
    else if (verb == "move" || verb == "unlog") {
        step.kind = verb == "move" ? Step::MOVE : Step::UNLOG;
        size_t file;
        words >> file >> step.line >> step.to;
        if (step.kind == Step::MOVE)
            words >> step.by;
        if (!words)
            fail("a malformed step: " + verb);
        step.file = requests.bytes(file);
    }
    else if (verb == "undocument" || verb == "exclude" || verb == "unbind" || verb == "unexport") {
        step.kind = verb == "undocument" ? Step::UNDOCUMENT
                    : verb == "exclude"  ? Step::EXCLUDE
                    : verb == "unbind"   ? Step::UNBIND
                                         : Step::UNEXPORT;
        size_t module, file;
        if (step.kind == Step::UNDOCUMENT)
            words >> step.line >> step.to;
        words >> module >> file;
        if (!words)
            fail("a malformed step: " + verb);
        step.module = requests.bytes(module);
        step.file = requests.bytes(file);
    }
    else {
        fail("an unknown step: " + verb);
    }
    return step;
}

std::vector<Step> take_steps(size_t count) {
    std::vector<Step> steps;
    for (size_t i = 0; i < count; i++)
        steps.push_back(take_step());
    return steps;
}

struct Text {
    std::string text;
    bool check;
};

std::vector<Text> take_texts(size_t count) {
    std::vector<Text> texts;
    for (size_t i = 0; i < count; i++) {
        std::istringstream words(requests.line());
        size_t length = 0;
        Text text;
        words >> length >> text.check;
        text.text = requests.bytes(length);
        texts.push_back(std::move(text));
    }
    return texts;
}

class Host {
public:
    Host(const char *path, const char *libraries) : libraries(libraries) {
        put_off_collection();
        image.load(path);
        timings.lap("load");
        delta.reset(new Delta(image));
        docstrings.reset(new Docstrings(image));
        started_in = enter_newest_world();
        image.all_of(jl_module_type);  // found here, they are known to all children
        method_tables(image);
    }

    // Finds out what any edit will ask for, as far as it is no matter of the runtime's. The record of dependencies is
    // in the file.
    void warm(const std::string &record) {
        for (jl_datatype_t *type : {jl_method_type, jl_method_instance_type, jl_code_instance_type, jl_datatype_type,
                                    jl_linenumbernode_type})
            image.all_of(type);
        use_large_pages(image);
        before.reset(new Memory(image));
        dependencies_in(record);
        census();
    }

    void facts() {
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

    void parse(const std::vector<Text> &texts) {
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

    void users(const std::string &module_name, const std::string &name) {
        jl_module_t *module = find_module(image, module_name);
        if (!module)
            fail("there is no module " + module_name);
        Json json;
        write_users(json, image, module, jl_symbol(name.c_str()));
        answer(json);
    }

    void native() {
        Json json;
        json.open('[');
        for (jl_code_instance_t *code : image.order)
            if (code->max_world == ALWAYS && jl_is_method(code->def->def.value))
                json.string(type_text(code->def->specTypes));
        json.close(']');
        answer(json);
    }

    void trial(const std::vector<Step> &steps, bool with_reason) {
        Json json;
        json.raw(in_child("evaluating the definitions", [&] {
            Json result;
            result.open('{');
            effects.watch();
            perform_all(steps, result);
            result.key("effects");
            effects.write(result);
            if (with_reason)
                result.key("new_code_reason").string(delta->why_no_code_can_be_kept(enter_newest_world()));
            result.close('}');
            return result.text;
        }));
        answer(json);
    }

    void census(const std::string &path, const std::vector<Step> &steps) {
        StandardLibraries found(libraries);
        Json json;
        write_strings(json, census().take(statements_of(steps), path));
        answer(json);
    }

    void computed(const std::string &path, const std::string &dependencies, const std::vector<Step> &steps) {
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
        json.close(']').key("computed");
        json.raw(path.empty() ? "[]" : in_child("asking the census", [&] {  // which leaves specializations behind
            Json numbers;
            numbers.open('[');
            for (uint32_t number : census().affected(path, started_in))
                numbers.number(number);
            return numbers.close(']').text;
        }));
        answer(json.close('}'));
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

    void results(const std::vector<Step> &steps, const std::vector<Step> &evaluated) {
        FromBothEnds share(evaluated.size());
        Json json;
        json.open('[');
        for (auto &part : in_children("evaluating statements", {results_of(evaluated, steps, share, false),
                                                                results_of(evaluated, steps, share, true)}))
            json.raw(part);
        answer(json.close(']'));
    }

    void compare(const std::vector<Step> &steps, const std::vector<Step> &compared) {
        const char *doing = "evaluating statements";
        FromBothEnds before(compared.size()), once_more(compared.size()), after(compared.size());
        auto both = in_children(doing, {results_of(compared, {}, before, false), results_of(compared, steps, after, false)});
        std::string again = both[0] == both[1] ? both[0] : in_child(doing, results_of(compared, {}, once_more, false));
        Json json;
        json.open('[').raw(both[0]).raw(again).raw(both[1]);
        answer(json.close(']'));
    }

    void apply(const std::vector<Step> &steps) {
        Json json;
        json.open('{');
        evaluate_for_good(json, steps);
        answer(json.close('}'));
    }

    void impact(const std::string &dependencies, const std::vector<Step> &steps) {
        Json json;
        json.raw(in_child("following what the edit invalidates", [&] {
            Json result;
            result.open('{');
            Impact impact(image);
            evaluate_for_good(result, steps);
            impact.follow(method_changes(image, started_in));
            cut_off(dependencies);
            delta->instances = jl_alloc_vec_any(0);
            JL_GC_PUSH1(&delta->instances);
            if (new_code_reason.empty())
                delta->collect(enter_newest_world());
            result.key("no_cutoff_reason").string(delta->no_cutoff_reason);
            impact.write(result, delta->instances, enter_newest_world());
            JL_GC_POP();
            return result.close('}').text;
        }));
        answer(json);
    }

    void record_dependencies(const std::string &path) {
        enter_newest_world();
        Json json;
        json.open('{').key("unstable").open('[');
        for (jl_method_instance_t *instance : Dependencies::record(image, path))
            json.string(type_text(instance->specTypes));
        json.close(']').close('}');
        answer(json);
    }

    void compile(const std::string &directory, const std::string &dependencies) {
        timings.begin();
        bool anew = !new_code_reason.empty();
        if (!is_cut_off)
            cut_off(dependencies);
        delta->instances = jl_alloc_vec_any(0);
        JL_GC_PUSH1(&delta->instances);
        Json json;
        json.open('{').key("new_code_reason").string(new_code_reason);
        if (anew)
            delta->end_all_code();
        size_t world = enter_newest_world();
        delta->collect(world);
        timings.lap("infer");
        if (delta->old_code_was_used()) {
            json.key("needs_julias_rule").string("a generator that the edit defines has to run with all that changed");
            answer(json.close('}'));
            JL_GC_POP();
            return;
        }
        Layer layer(image, !anew);
        write_image(json, layer, delta->instances, world, directory, "delta");
        json.key("replaced").open('[');
        if (layer.chained)
            for (auto &pair : layer.replaced(started_in, world, delta->successors()))
                json.open('[').number(pair.first).number(pair.second).close(']');
        json.close(']').key("inferred").number((long long)delta->inferred);
        json.key("no_cutoff_reason").string(delta->no_cutoff_reason).key("timings");
        timings.write(json);
        rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        json.key("peak_kib").number(usage.ru_maxrss).close('}');
        answer(json);
        JL_GC_POP();
    }

    void rebase(const std::string &directory) {
        collect_as_usual();
        size_t world = enter_newest_world();
        jl_array_t *instances = jl_alloc_vec_any(0);
        JL_GC_PUSH1(&instances);
        std::unordered_set<jl_method_instance_t *> listed;
        for (jl_code_instance_t *code : image.order)
            if (code->max_world == ALWAYS && listed.insert(code->def).second)
                jl_array_ptr_1d_push(instances, (jl_value_t *)code->def);
        Layer layer(image, false);
        leave_room_for_names(image);
        Json json;
        json.open('{');
        write_image(json, layer, instances, world, directory, "base");
        json.key("timings");
        timings.write(json);
        json.close('}');
        answer(json);
        JL_GC_POP();
    }

private:
    static void write_strings(Json &json, const std::vector<std::string> &texts) {
        json.open('[');
        for (auto &text : texts)
            json.string(text);
        json.close(']');
    }

    // For a child: what its share of the statements gives after the steps.
    std::function<std::string()> results_of(const std::vector<Step> &statements, const std::vector<Step> &steps,
                                            const FromBothEnds &share, bool from_last) {
        return [this, &statements, steps, &share, from_last] {
            Json ignored, results;
            ignored.open('{');
            if (!steps.empty())
                perform_all(steps, ignored);
            else if (is_cut_off)
                delta->take_back_cutoff();
            StandardLibraries found(libraries);
            write_strings(results, census().results(statements_of(statements), share, from_last));
            return results.text;
        };
    }

    static std::vector<Statement> statements_of(const std::vector<Step> &steps) {
        std::vector<Statement> statements;
        for (const Step &step : steps)
            statements.push_back({step.module, step.file, step.text, step.line});
        return statements;
    }

    Census &census() {
        if (!known_census)
            known_census.reset(new Census(image));
        return *known_census;
    }

    Dependencies &dependencies_in(const std::string &record) {
        if (!dependencies || recorded_in != record) {
            dependencies.reset(new Dependencies);
            dependencies->read(image, record);
            recorded_in = record;
        }
        return *dependencies;
    }

    std::unique_ptr<Census> known_census;
    std::unique_ptr<Dependencies> dependencies;
    std::string recorded_in;
    std::unique_ptr<Memory> before;
    Timings timings;
    std::string new_code_reason;  // why no native code of the image can be kept after what was evaluated
    bool is_cut_off = false;
    std::string libraries;
    Image image;
    std::unique_ptr<Delta> delta;
    std::unique_ptr<Docstrings> docstrings;
    Effects effects;
    Lines lines;
    size_t started_in = 0;

    void perform_all(const std::vector<Step> &steps, Json &json) {
        QuietLogging quiet;
        StandardLibraries found(libraries);
        BindingSnapshot names(image);
        size_t world_before = jl_get_world_counter();
        std::vector<size_t> world_after;
        json.key("errors").open('[');
        for (size_t i = 0; i < steps.size(); i++) {
            effects.begin_step(i);
            std::string error = perform(steps[i]);
            world_after.push_back(jl_get_world_counter());
            if (!error.empty())
                json.open('{').key("step").number((long long)i).key("message").string(error).close('}');
        }
        json.close(']');
        lines.settle(image);
        docstrings->settle();
        write_methods(json, world_before, world_after);
        json.key("names");
        names.write_changes(json);
    }

    void evaluate_for_good(Json &json, const std::vector<Step> &steps) {
        timings.begin();
        perform_all(steps, json);
        json.key("invalidated").number((long long)delta->invalidated());
        timings.lap("evaluate");
        new_code_reason = delta->why_no_code_can_be_kept(enter_newest_world());
        json.key("new_code_reason").string(new_code_reason);
        timings.lap("check");
    }

    void cut_off(const std::string &record) {
        if (new_code_reason.empty() && !record.empty())
            delta->cut_off(enter_newest_world(), dependencies_in(record));
        is_cut_off = true;
        timings.lap("infer");
    }

    std::string perform(const Step &step) {
        if (step.kind == Step::MOVE) {
            lines.move(step.file, step.line, step.to, step.by);
            docstrings->move(step.file, step.line, step.to, step.by);
            return "";
        }
        if (step.kind == Step::UNLOG) {
            free_log_ids(image, step.file, step.line, step.to);
            return "";
        }
        lines.settle(image);
        jl_module_t *module = find_module(image, step.module);
        if (!module)
            return "there is no module " + step.module;
        if (step.kind == Step::EVALUATE) {
            Interpreting without_compiling;
            return evaluate(module, step.file, step.line, step.text);
        }
        if (step.kind == Step::UNDOCUMENT) {
            docstrings->forget(module, step.file, step.line, step.to);
            return "";
        }
        if (step.kind == Step::INCLUDE) {
            IncludedFiles().add(module, step.file, step.text);
            return "";
        }
        if (step.kind == Step::EXCLUDE) {
            IncludedFiles().remove(module, step.file);
            return "";
        }
        jl_sym_t *name = jl_symbol(step.file.c_str());
        if (step.kind == Step::UNBIND) {
            keep_alive(unbind(module, name));
            return "";
        }
        if (step.kind == Step::UNEXPORT) {
            unexport(module, name);
            return "";
        }
        jl_methtable_t *table = nullptr;
        jl_method_t *method = nullptr;
        for_each_method(image, [&](jl_methtable_t *candidate, jl_typemap_entry_t *entry) {
            if (jl_is_method(entry->func.value) && entry->func.method->name == name &&
                entry->max_world == ALWAYS && entry->func.method->module == module &&
                type_text((jl_value_t *)entry->sig) == step.text) {
                table = candidate;
                method = entry->func.method;
            }
        });
        if (!method)
            return "there is no method " + step.text;
        jl_method_table_disable(table, method);
        enter_newest_world();
        return "";
    }

    // Native code that is kept may have a slot for a value that nothing else refers to any more: the image must
    // have it. It hangs where nobody sees it, among the literals of a method.
    void keep_alive(jl_value_t *value) {
        if (!value)
            return;
        static jl_method_t *keeper = nullptr;
        if (!keeper)
            for (jl_value_t *candidate : image.all_of(jl_method_type))
                if (!keeper && ((jl_method_t *)candidate)->roots)
                    keeper = (jl_method_t *)candidate;
        JL_GC_PUSH1(&value);
        jl_array_ptr_1d_push(keeper->roots, value);
        JL_GC_POP();
    }

    // {"defined": [{..., "step", "replaces"}], "ended": [...], "emptied": [...]}
    void write_methods(Json &json, size_t world_before, const std::vector<size_t> &world_after) {
        const MethodChanges &changes = method_changes(image, started_in);
        json.key("defined").open('[');
        for (jl_typemap_entry_t *entry : changes.added) {
            size_t world = entry->func.method->primary_world;
            if (world <= world_before)
                continue;
            size_t step = 0;
            while (step + 1 < world_after.size() && world_after[step] < world)
                step++;
            json.open('{').key("step").number((long long)step);
            write_method(json, entry);
            json.key("replaces");
            jl_typemap_entry_t *replaced = nullptr;
            for (jl_typemap_entry_t *old : changes.ended)
                if (jl_types_equal((jl_value_t *)old->sig, (jl_value_t *)entry->sig))
                    replaced = old;
            if (replaced) {
                json.open('{');
                write_method(json, replaced);
                json.key("also").open('[');
                for (jl_typemap_entry_t *other : changes.replaced_in_base)
                    if (jl_types_equal((jl_value_t *)other->sig, (jl_value_t *)entry->sig)) {
                        json.open('{');
                        write_method(json, other);
                        json.close('}');
                    }
                json.close(']').close('}');
            }
            else {
                json.raw("null");
            }
            json.close('}');
        }
        json.close(']').key("ended").open('[');
        for (jl_typemap_entry_t *entry : changes.ended) {
            json.open('{');
            write_method(json, entry);
            json.close('}');
        }
        json.close(']').key("emptied").open('[');
        for (jl_methtable_t *table : changes.tables)
            if (!has_method(table)) {
                json.open('{').key("module").string(module_text(table->module));
                json.key("name").string(jl_symbol_name(table->name)).close('}');
            }
        json.close(']');
    }

    bool has_method(jl_methtable_t *wanted) {
        bool found = false;
        for_each_method(image, [&](jl_methtable_t *table, jl_typemap_entry_t *entry) {
            found |= table == wanted && entry->max_world == ALWAYS;
        });
        return found;
    }

    // Of a layer on the image as a recipe (recipe.h), where that can be; otherwise all of it, with the reason.
    void write_heap(Json &json, Layer &layer, const std::string &directory) {
        const char *setting = getenv("BASEDEV_HEAP");  // stock, compare, or damaged (a comparison that has to fail)
        std::string wish = setting ? setting : "";
        std::string reason = !layer.chained      ? "all code is compiled anew"
                             : wish == "stock" ? "BASEDEV_HEAP=stock"
                             : has_collected() ? "so much was allocated that garbage had to be collected"
                                               : "";
        if (reason.empty()) {
            Heap heap(image, layer.functions(), layer.values(), before.get());
            reason = heap.reason;
            if (reason.empty()) {
                timings.lap("heap");
                if (wish == "compare" || wish == "damaged")
                    compare(heap, layer, wish == "damaged");
                std::string records = heap.recipe.records();
                write_file(json, directory + "/heap.recipe", 0, records.data(), records.size());
            }
        }
        if (!reason.empty())
            write_whole_heap(json, layer, directory);
        json.key("whole_heap_reason").string(reason);
    }

    // Ends the process when the runtime's serializer writes another heap.
    void compare(const Heap &heap, Layer &layer, bool damaged) {
        std::string ours = heap.recipe.assembled();
        if (damaged)
            for (jl_code_instance_t *code : image.order)
                if (jl_is_method(code->def->def.value)) {
                    ours[image.offset_of(&code->def->def.method->line)] ^= 1;
                    break;
                }
        ios_t *stock = jl_create_system_image(layer.description());
        auto object_at = [&](uint32_t offset) { return heap.object_at(offset); };
        std::string where = difference(Blob(ours.data()), Blob(stock->buf), object_at);
        ios_close(stock);
        if (!where.empty())
            fail("the heap is not the one that Julia writes: " + where);
        timings.lap("compare");
    }

    void write_whole_heap(Json &json, Layer &layer, const std::string &directory) {
        ios_t *heap = jl_create_system_image(layer.description());
        std::string missing = layer.chained ? image.what_is_missing(heap->buf) : "";
        if (!missing.empty())
            fail("the new heap lost " + missing + ", which kept native code uses");
        timings.lap("heap");
        // room for the header that makes an object file of it
        write_file(json, directory + "/heap.o", ELF_HEADER_ROOM, heap->buf, heap->size);
    }

    void write_file(Json &json, const std::string &path, off_t room, const char *bytes, size_t size) {
        int file = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
        if (file < 0 || lseek(file, room, SEEK_SET) != room)
            fail("cannot write " + path + ": " + strerror(errno));
        write_all(file, bytes, size);
        if (close(file))
            fail("cannot write " + path + ": " + strerror(errno));
        json.key("heap").string(path);
        timings.lap("write heap");
    }

    void write_image(Json &json, Layer &layer, jl_array_t *instances, size_t world, const std::string &directory,
                     const char *name) {
        if (jl_array_len(instances)) {
            layer.generate(instances, world);
            timings.lap("generate");
            layer.start_emission(directory, name, layer.compiled > WORTH_SPLITTING ? 2 : 1);
        }
        if (!layer.chained && delta->inferred)
            delta->forget_ended_code();
        write_heap(json, layer, directory);
        auto objects = layer.finish_emission();
        timings.lap("emit");
        json.key("objects").open('[');
        for (auto &object : objects)
            json.string(object);
        json.close(']').key("fvars").number(layer.fvars).key("gvars").number(layer.gvars);
        json.key("recompiled").number((long long)layer.compiled);
        json.key("calls_into_base").number((long long)layer.calls_into_base);
        json.key("calls_through_runtime").number((long long)layer.calls_through_runtime);
    }
};

// The headers that this was compiled with must be those of the libjulia that it runs with.
void check_abi() {
    if (strcmp(jl_ver_string(), JULIA_VERSION_STRING))
        fail(std::string("compiled for Julia ") + JULIA_VERSION_STRING + ", but this libjulia is " + jl_ver_string());
    if (jl_sizeof_jl_options() != (ssize_t)sizeof(jl_options_t))
        fail("this libjulia was built with other options than its headers tell");
}

void start_julia(const char *image) {
    // `--output-ji` puts the runtime into the mode in which it makes images: relocatable code, nothing
    // initialised. The file is never written, since the process ends without the runtime's exit hooks.
    const char *words[] = {"julia", "-O3", "-C", "generic", "-J", image, "--output-ji", "/dev/null",
                           "--startup-file=no", "-e", "nothing", nullptr};
    int count = sizeof words / sizeof *words - 1;
    char **arguments = (char **)words;
    jl_parse_opts(&count, &arguments);
    julia_init(JL_IMAGE_CWD);
}

std::string resolved(const char *given) {
    char *path = realpath(given, nullptr);
    if (!path)
        fail(std::string("cannot read ") + given);
    std::string text = path;
    free(path);
    return text;
}

[[noreturn]] void answer_requests(Host &host) {
    for (;;) {
        std::istringstream words(requests.line());
        std::string verb;
        size_t number = 0;
        words >> verb >> number;
        if (verb == "client") {
            unsigned mask = 0;
            size_t limits = 0, environment = 0;
            words >> mask >> limits >> environment;
            std::string allowed = requests.bytes(limits);
            live_like_client((int)number, mask, allowed, requests.bytes(environment));
        }
        else if (verb == "facts")
            host.facts();
        else if (verb == "parse")
            host.parse(take_texts(number));
        else if (verb == "users") {
            size_t length = 0;
            words >> length;
            std::string module = requests.bytes(number);
            host.users(module, requests.bytes(length));
        }
        else if (verb == "native")
            host.native();
        else if (verb == "trial" || verb == "rehearse" || verb == "apply") {
            auto steps = take_steps(number);
            if (verb == "apply")
                host.apply(steps);
            else
                host.trial(steps, verb == "rehearse");
        }
        else if (verb == "census") {
            size_t count = 0;
            words >> count;
            std::string path = requests.bytes(number);
            host.census(path, take_steps(count));
        }
        else if (verb == "computed") {
            size_t length = 0, count = 0;
            words >> length >> count;
            std::string path = requests.bytes(number), dependencies = requests.bytes(length);
            host.computed(path, dependencies, take_steps(count));
        }
        else if (verb == "impact") {
            size_t count = 0;
            words >> count;
            std::string dependencies = requests.bytes(number);
            host.impact(dependencies, take_steps(count));
        }
        else if (verb == "compare" || verb == "results") {
            size_t more = 0;
            words >> more;
            auto steps = take_steps(number), statements = take_steps(more);
            if (verb == "compare")
                host.compare(steps, statements);
            else
                host.results(steps, statements);
        }
        else if (verb == "compile") {
            size_t length = 0;
            words >> length;
            std::string directory = requests.bytes(number);
            host.compile(directory, requests.bytes(length));
        }
        else if (verb == "dependencies")
            host.record_dependencies(requests.bytes(number));
        else if (verb == "rebase")
            host.rebase(requests.bytes(number));
        else
            fail("an unknown request: " + verb);
    }
}

}  // namespace

int main(int argc, char **argv) {
    if (argc == 8 && !strcmp(argv[1], "--serve")) {
        const int listener = detach();
        std::string path = resolved(argv[2]);
        check_abi();
        start_julia(path.c_str());
        Host host(path.c_str(), argv[3]);
        const Serving serving = {path, argv[5], atol(argv[6]), atol(argv[7])};
        host.warm(argv[4]);
        requests.file = answers = serve(serving, listener);
        answer_requests(host);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: host IMAGE [PARENT [LIBRARIES]], or --serve IMAGE LIBRARIES DEPENDENCIES SOCKET IDLE MEMORY\n");
        return 2;
    }
    if (argc > 2 && getppid() != atoi(argv[2]))
        _exit(0);  // it died before it could be told to take this process along
    std::string path = resolved(argv[1]);
    // The runtime takes the standard streams as its own, and evaluated code may use them.
    requests.file = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    answers = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    check_abi();
    start_julia(path.c_str());
    Host host(path.c_str(), argc == 4 ? argv[3] : "");
    answer_requests(host);
}
