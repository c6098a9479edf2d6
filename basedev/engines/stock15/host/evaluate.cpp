#include "evaluate.h"

#include "lines.h"

#include <climits>
#include <csignal>
#include <cstring>
#include <unistd.h>

jl_module_t *find_module(const Image &image, const std::string &name) {
    size_t dot = name.find('.');
    std::string first = name.substr(0, dot);
    jl_module_t *module = nullptr;
    if (first == "Main")
        module = jl_main_module;
    else if (first == "Core")
        module = jl_core_module;
    else if (first == "Base")
        module = jl_base_module;
    else  // a stdlib: its own parent, and bound nowhere
        for (jl_value_t *candidate : image.all_of(jl_module_type)) {
            auto *root = (jl_module_t *)candidate;
            if (root->parent == root && first == jl_symbol_name(root->name))
                module = root;
        }
    while (module && dot != std::string::npos) {
        size_t next = name.find('.', dot + 1);
        std::string part = name.substr(dot + 1, next == std::string::npos ? next : next - dot - 1);
        jl_value_t *inner = jl_get_global(module, jl_symbol(part.c_str()));
        module = inner && jl_is_module(inner) ? (jl_module_t *)inner : nullptr;
        dot = next;
    }
    return module;
}

IncludedFiles::IncludedFiles() : list((jl_array_t *)jl_get_global(jl_base_module, jl_symbol("_included_files"))) {
    if (!list || !jl_array_len(list))
        fail("this Julia has no Base._included_files");
    directory = path(0);
    directory.erase(directory.rfind('/') + 1);
}

std::string IncludedFiles::path(size_t i) const {
    jl_value_t *path = jl_fieldref(jl_arrayref(list, i), 1);
    return std::string(jl_string_data(path), jl_string_len(path));
}

void IncludedFiles::add(jl_module_t *module, const std::string &file, const std::string &after) {
    jl_value_t *path = nullptr, *pair = nullptr;
    JL_GC_PUSH2(&path, &pair);
    path = jl_pchar_to_string(full(file).data(), full(file).size());
    pair = jl_new_struct((jl_datatype_t *)jl_tparam0(jl_typeof(list)), module, path);
    change("insert!", find(after, nullptr) + 1, pair);
    JL_GC_POP();
}

void IncludedFiles::remove(jl_module_t *module, const std::string &file) {
    change("deleteat!", find(file, module), nullptr);
}

size_t IncludedFiles::find(const std::string &file, jl_module_t *owner) const {
    for (size_t i = size(); i-- > 0;)
        if (path(i) == full(file) && (!owner || module(i) == owner))
            return i;
    fail(file + " is not among the files that Julia included");
}

void IncludedFiles::change(const char *function, size_t index, jl_value_t *value) {
    jl_value_t *arguments[] = {(jl_value_t *)list, jl_box_long((long)index + 1), value};
    auto *called = (jl_function_t *)jl_get_global(jl_base_module, jl_symbol(function));
    if (!jl_call(called, arguments, value ? 3 : 2))
        fail("Base._included_files is not as expected");
}

static std::string error_text(jl_value_t *error) {
    JL_GC_PUSH1(&error);
    jl_value_t *shown = nullptr;
    JL_TRY {
        jl_value_t *sprint = jl_get_global(jl_base_module, jl_symbol("sprint"));
        jl_value_t *showerror = jl_get_global(jl_base_module, jl_symbol("showerror"));
        shown = jl_call2((jl_function_t *)sprint, showerror, error);
    }
    JL_CATCH {
        shown = nullptr;
    }
    std::string text = shown && jl_is_string(shown) ? std::string(jl_string_data(shown), jl_string_len(shown))
                                                    : std::string(jl_typeof_str(error));
    JL_GC_POP();
    return text;
}

std::string message_of_error(const std::function<void()> &work) {
    jl_value_t *volatile error = nullptr;
    JL_TRY {
        work();
    }
    JL_CATCH {
        error = jl_current_exception();
    }
    enter_newest_world();
    return error ? error_text(error) : std::string();
}

// The parser takes as long for 1,500 empty lines as for 1,500 bytes of code, so they are not put in front of the text.
jl_value_t *parsed_at(const std::string &file, long line, const std::string &text) {
    jl_value_t *code = jl_parse_input_line(text.data(), text.size(), file.data(), file.size());
    Lines lines;
    lines.move(file, 1, LONG_MAX, line - 1);
    bool changed = false;
    int collecting = jl_gc_enable(0);
    code = lines.settled(code, changed);
    jl_gc_enable(collecting);
    return code;
}

std::string evaluate(jl_module_t *module, const std::string &file, long line, const std::string &text) {
    std::string placed((size_t)(line - 1), '\n');
    placed += text;
    return message_of_error(
        [&] { jl_load_file_string(placed.data(), placed.size(), (char *)file.c_str(), module); });
}

static const useconds_t LONG = 200000;  // microseconds

Interpreting::Interpreting() : before(jl_options.compile_enabled) {
    struct sigaction at_end = {};
    at_end.sa_handler = [](int) { jl_options.compile_enabled = JL_OPTIONS_COMPILE_ON; };
    at_end.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &at_end, nullptr);
    jl_options.compile_enabled = JL_OPTIONS_COMPILE_MIN;
    ualarm(LONG, 0);
}

// What is interpreted has a CodeInstance without a result (jl_compile_method_internal).
Interpreting::~Interpreting() {
    ualarm(0, 0);
    jl_options.compile_enabled = before;
    for (jl_method_instance_t *instance : cached.instances)
        for (jl_code_instance_t **link = &instance->cache; *link;) {
            if ((*link)->invoke != jl_fptr_interpret_call || (*link)->inferred) {
                link = &(*link)->next;
                continue;
            }
            *link = (*link)->next;
            if (*link)
                jl_gc_wb(instance, *link);
        }
}

// Base.CoreLogging._min_enabled_level is a Ref{LogLevel}, and LogLevel one Int32.
QuietLogging::QuietLogging() {
    auto *logging = (jl_module_t *)jl_get_global(jl_base_module, jl_symbol("CoreLogging"));
    jl_value_t *reference = logging ? jl_get_global(logging, jl_symbol("_min_enabled_level")) : nullptr;
    if (!reference)
        return;
    level = (int32_t *)reference;
    before = *level;
    *level = INT32_MAX;
}

QuietLogging::~QuietLogging() {
    if (level)
        *level = before;
}

StandardLibraries::StandardLibraries(const std::string &directory) {
    auto *system = (jl_module_t *)jl_get_global(jl_base_module, jl_symbol("Sys"));
    if (directory.empty() || !system)
        return;
    place = jl_get_binding_wr(system, jl_symbol("STDLIB"), 0);
    before = place->value;  // of the image, so it is kept
    place->value = jl_cstr_to_string(directory.c_str());
    jl_gc_wb(system, place->value);
}

StandardLibraries::~StandardLibraries() {
    if (place)
        place->value = before;
}
