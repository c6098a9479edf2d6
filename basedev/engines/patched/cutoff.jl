# Early cutoff: of what Julia ended after a trial's steps, finds what really changed. The rest stays valid in an image, with
# its native code. docs/early-cutoff.md argues why.
#
# All that Julia ended is taken for valid until it turns out to be something else. Those that asked about what was edited are
# inferred twice, in the world before the steps and in the present one. Where both give the same, and the first what the
# image has, its native code does what the steps want. Otherwise those that asked about it are next.

const MOST_INFERRED = 8  # for each CodeInstance that Julia ended, before its own rule holds

const SAME, OTHER, REPLACED = :same, :other, :replaced

struct Cutoff
    before::UInt  # the world before the steps
    now::UInt
    added::Vector{Method}  # that the steps define
    effects::IdDict{Core.CodeInstance,UInt32}  # of each that Julia ended, as the image has them
    asked::IdDict{Core.CodeInstance,Base.IdSet{Any}}  # what each asked about
    users::IdDict{Any,Vector{Core.CodeInstance}}  # who asked about a MethodInstance
    run::Base.IdSet{Core.CodeInstance}  # what inference may have run
    found::IdDict{Core.CodeInstance,Symbol}
    called::IdDict{Core.CodeInstance,Vector{Core.CodeInstance}}  # by those that are the same: what is other, maybe
    live::IdDict{Any,Bool}
end

Cutoff(before, now) =
    Cutoff(before, now, methods_since(before), IdDict(), IdDict(), IdDict(), Base.IdSet(), IdDict(), IdDict(), IdDict())

is_live(cutoff, method) = known!(one -> method_of(one.sig, cutoff.now) === one, cutoff.live, method)

# To be asked last: what this process runs afterwards may call native code of before the steps.
function kept()
    cutoff, inferred = Cutoff(BEGUN[1], Base.get_world_counter()), Ref(0)
    reason = Sys.ARCH === :x86_64 ? cut_off(cutoff, inferred) : "jumps are written for x86-64 only"
    # The results of a method that is replaced are not ended.
    stays(code) = reason === nothing && get(cutoff.found, code, SAME) === SAME && is_live(cutoff, instance_of(code).def)
    kept = all_reached(Any[code for code in keys(cutoff.effects) if stays(code)]) do code
        filter(edge -> is_ended_edge(cutoff, edge), Any[code.edges...])
    end
    succeeded = Base.IdSet{Any}()
    for (code, callees) in cutoff.called
        stays(code) && foreach(one -> stays(one) || push!(succeeded, one), callees)
    end
    anew = reason === nothing ? generated_anew(cutoff) : Method[]
    generated = Any[handle_of(one) for method in anew for one in generated_before(cutoff, method)]
    is_stale(code) = any(edge -> is_past(cutoff, edge, stays), code.edges)
    return Object([
        "reason" => reason,
        "kept" => Any[Any[handle_of(code)..., Int(code.ipo_purity_bits), is_stale(code)] for code in kept],
        "succeeded" => Any[handle_of(code) for code in succeeded],
        "generated" => generated,
        "inferred" => inferred[],
    ])
end

# Those to which some lead from one to the next, and these.
function all_reached(next, begins)
    found, waiting = Base.IdSet{Any}(), collect(Any, begins)
    while !isempty(waiting)
        one = pop!(waiting)
        one in found && continue
        push!(found, one)
        append!(waiting, next(one))
    end
    return found
end

# Where a CodeInstance or MethodInstance of the base image is, in any process, and what tells that it is that one.
handle_of(code::Core.CodeInstance) = Any[distance(code), Int(code.def.specTypes.hash)]
handle_of(instance::Core.MethodInstance) = Any[distance(instance), Int(instance.specTypes.hash)]

distance(@nospecialize(object)) = place(object) - place(Core.CodeInstance)

const FARTHEST = Int64[]  # of the base image's: those of the host's own image are behind it

is_of_base(@nospecialize(code::Union{Core.CodeInstance,Core.MethodInstance})) =
    in_image(code) && distance(code) <= get(FARTHEST, 1, typemax(Int64))

# To be called on the base image, when the host's is made.
function note_farthest()
    push!(FARTHEST, typemin(Int64))
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            in_image(code) || continue
            for one in (instance, code, (isdefined(code, :edges) ? code.edges : ())...)
                is_known = one isa Union{Core.CodeInstance,Core.MethodInstance} && in_image(one)
                is_known && (FARTHEST[1] = max(FARTHEST[1], distance(one)))
            end
        end
    end
end

# Whether it is one that is in no cache, for what was asked with constant arguments.
is_ended_edge(cutoff, @nospecialize(edge)) =
    edge isa Core.CodeInstance && is_of_base(edge) && !haskey(cutoff.effects, edge) &&
    cutoff.before <= edge.max_world < typemax(UInt) && edge.def isa Core.MethodInstance &&
    edge.def.specTypes isa DataType && is_live(cutoff, edge.def.def)

# Runs the generators of new generated methods, for what their predecessors were called with, while all that they run is what
# was compiled after the steps. Inference finds what they gave.
function run_generators(cutoff)
    run = Base.IdSet{Any}()
    for method in generated_anew(cutoff), instance in generated_before(cutoff, method)
        present = Base.Compiler.specialize_method(method, instance.specTypes, instance.sparam_vals)
        push!(run, present)
        kept = Ref{Core.CodeInstance}()
        try
            ccall(:jl_code_for_staged, Any, (Any, UInt, Ptr{Core.CodeInstance}), present, cutoff.now, kept)
        catch
            # inference does without
        end
    end
    return run
end

function generated_before(cutoff, method)
    before = method_of(method.sig, cutoff.before)
    instances = before === nothing ? Any[] : collect(Any, Base.specializations(before))
    return filter(one -> is_of_base(one) && one.specTypes isa DataType && Base.Compiler.may_invoke_generator(one), instances)
end

generated_anew(cutoff) = filter(method -> isdefined(method, :generator), cutoff.added)

# A generator that inference ran meanwhile may have run old native code.
function late_generator(cutoff, run)
    for method in generated_anew(cutoff), instance in Base.specializations(method)
        instance in run || !Base.Compiler.may_invoke_generator(instance) ||
            return "$(method.name) is generated for other arguments than before"
    end
    return nothing
end

# Returns why Julia's own rule has to hold, if so.
function cut_off(cutoff, inferred)
    note_ended(cutoff)
    note_run(cutoff)
    run = run_generators(cutoff)
    order = callees_first(cutoff)
    ranks = IdDict{Any,Int}(code => rank for (rank, code) in enumerate(order))
    waiting = falses(length(order))
    foreach(code -> waiting[ranks[code]] = true, first_ones(cutoff))
    for (rank, code) in enumerate(order)
        is_valid = !waiting[rank] && get(cutoff.found, code, SAME) === SAME
        is_valid && setfield!(code, :max_world, typemax(UInt), :monotonic)
    end
    while (rank = findfirst(waiting)) !== nothing
        code, waiting[rank] = order[rank], false
        get(cutoff.found, code, SAME) === SAME || continue
        inferred[] += 1
        inferred[] <= MOST_INFERRED * length(order) || return "what was invalidated comes to no end"
        is_other_for_users(cutoff, code) || continue
        foreach(user -> waiting[ranks[user]] = true, get(cutoff.users, code.def, ()))
    end
    fresh = present_results(cutoff)
    return something(late_generator(cutoff, run), recursion(cutoff, fresh), run_what_stays(cutoff, fresh), Some(nothing))
end

# Those that Julia ended, each behind what it asked about, but for cycles.
function callees_first(cutoff)
    order, seen, of_instance = Core.CodeInstance[], Base.IdSet{Any}(), ended_of_instances(cutoff)
    for first_one in keys(cutoff.effects)
        stack = Any[(first_one, false)]
        while !isempty(stack)
            code, is_done = pop!(stack)
            is_done && push!(order, code)
            (is_done || code in seen) && continue
            push!(seen, code)
            push!(stack, (code, true))
            for one in cutoff.asked[code], callee in get(of_instance, one, ())
                callee in seen || push!(stack, (callee, false))
            end
        end
    end
    return order
end

function ended_of_instances(cutoff)
    found = IdDict{Any,Vector{Core.CodeInstance}}()
    foreach(code -> push!(get!(Vector{Core.CodeInstance}, found, instance_of(code)), code), keys(cutoff.effects))
    return found
end

function note_ended(cutoff)
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            is_of_base(code) && cutoff.before <= code.max_world < typemax(UInt) || continue
            cutoff.effects[code] = code.ipo_purity_bits
            is_known = code.owner === nothing && code.def === instance && isdefined(code, :edges)
            is_known && instance.specTypes isa DataType && is_live(cutoff, method) || (cutoff.found[code] = REPLACED)
            cutoff.asked[code] = asked(code)
            for one in cutoff.asked[code]
                one isa Core.MethodInstance && push!(get!(Vector{Core.CodeInstance}, cutoff.users, one), code)
            end
        end
    end
end

# MethodInstances, Methods, signatures and bindings that inference asked about, and what it asked about where it looked into a
# callee for constant arguments: edges have a CodeInstance of its own for that, which is in no cache.
function asked(code)
    found, seen, waiting = Base.IdSet{Any}(), Base.IdSet{Any}(), Any[code]
    while !isempty(waiting)
        one = pop!(waiting)
        one in seen && continue
        push!(seen, one)
        for edge in (isdefined(one, :edges) ? one.edges : ())
            if edge isa Core.CodeInstance
                push!(found, instance_of(edge))
                is_cached(edge) || push!(waiting, edge)
            elseif edge isa Union{Core.MethodInstance,Method,Type,Core.Binding}
                push!(found, edge)
            end
        end
    end
    return found
end

is_cached(code) = any(cached -> cached === code, codes_of(instance_of(code)))

# Inference runs calls with constant arguments whose effects allow that. In this process native code that stays still calls
# what was edited, so what might be run is never taken for valid, with all that it calls.
function note_run(cutoff)
    of_instance = ended_of_instances(cutoff)
    run = all_reached(Iterators.filter(may_be_run, keys(cutoff.effects))) do code
        Iterators.flatten(get(of_instance, one, ()) for one in cutoff.asked[code])
    end
    union!(cutoff.run, run)
end

may_be_run(code::Core.CodeInstance) = may_be_run(code.ipo_purity_bits)
may_be_run(effects::UInt32) = Base.Compiler.is_foldable(Base.Compiler.decode_effects(effects), true)

# Those that asked about what was edited, by whatever way: in whose source a name stands that is bound to something else, who may
# be run, or may have run such a one, and whom none of these leads to.
function first_ones(cutoff)
    names = Base.IdSet{Symbol}()
    isempty(cutoff.effects) || foreach(entry -> push!(names, entry[2].second), changed_names(cutoff.before))
    asking, known, naming = Base.IdSet{Any}(), IdDict{Any,Bool}(), IdDict{Any,Bool}()
    names_one(method) = !isempty(names) && known!(one -> is_naming(one, names), naming, method)
    for (code, ones) in cutoff.asked
        any(one -> known!((@nospecialize(one)) -> is_edited(one, names), known, one), ones) ||
            names_one(instance_of(code).def) ||
            any(one -> one isa Core.MethodInstance && names_one(one.def), ones) || continue
        push!(asking, code)
    end
    for code in cutoff.run
        push!(asking, code)
        may_be_run(code) && foreach(user -> push!(asking, user), get(cutoff.users, instance_of(code), ()))
    end
    # so far, those that are replaced are found
    reached = all_reached(code -> get(cutoff.users, instance_of(code), ()), Any[asking..., keys(cutoff.found)...])
    foreach(code -> code in reached || push!(asking, code), keys(cutoff.effects))
    return collect(Core.CodeInstance, asking)
end

function is_naming(method, names)
    source = method isa Method ? lowered(method) : nothing
    return source !== nothing && mentions(part -> part isa GlobalRef && part.name in names, source)
end

is_edited(@nospecialize(one), names) =
    one isa Core.Binding ? one.globalref.name in names :
    meets_changed(one isa Method ? one.sig : one isa Type ? one : one.specTypes)

# Infers it anew, and tells whether those that asked about it have to.
function is_other_for_users(cutoff, code)
    # with what was inferred from it meanwhile
    ccall(:jl_invalidate_code_instance, Cvoid, (Any, UInt), code, cutoff.now - 1)
    effects = compared(cutoff, code)
    if effects === nothing || code in cutoff.run || may_be_run(effects)
        cutoff.found[code] = OTHER
        return true
    end
    cutoff.found[code] = SAME
    setfield!(code, :max_world, typemax(UInt), :monotonic)
    effects == code.ipo_purity_bits && return false
    setfield!(code, :ipo_purity_bits, effects, :monotonic)  # native code does not depend on them
    return true
end

struct Inferred
    result::Base.Compiler.InferenceResult
    source::Core.CodeInfo
    edges::Core.SimpleVector
    is_constant::Bool  # what is called needs no code
end

function inferred_in(world, instance)
    interpreter = Base.Compiler.NativeInterpreter(world)
    frame = Base.Compiler.typeinf_frame(interpreter, instance, true)
    (frame === nothing || !(frame.result.src isa Core.CodeInfo)) && return nothing
    result, source = frame.result, frame.result.src
    is_constant = Base.Compiler.result_is_constabi(interpreter, result)
    return Inferred(result, source, is_constant ? Core.svec(frame.edges...) : source.edges, is_constant)
end

# The present effects, where all else is what it was.
function compared(cutoff, code)
    is = inferred_in(cutoff.now, code.def)
    is !== nothing && is_as_in_image(cutoff, code, is) || return nothing
    was = inferred_in(cutoff.before, code.def)
    was !== nothing && is_as_in_image(cutoff, code, was) || return nothing
    Base.Compiler.encode_effects(was.result.ipo_effects) == cutoff.effects[code] || return nothing
    called = Core.CodeInstance[]
    same(one, other) = is_same_part(cutoff, called, one, other)
    are_same = was.is_constant === is.is_constant && are_same_edges(cutoff, was.edges, is.edges) &&
        all(name -> same(getfield(was.result, name), getfield(is.result, name)), OF_RESULT) &&
        all(name -> same(getfield(was.source, name), getfield(is.source, name)), OF_SOURCE)
    are_same || return nothing
    cutoff.called[code] = called
    return Base.Compiler.encode_effects(is.result.ipo_effects)
end

const OF_RESULT = (:result, :exc_result, :analysis_results)
const OF_SOURCE =
    (:code, :ssavaluetypes, :ssaflags, :slottypes, :debuginfo, :inlining, :inlining_cost, :constprop, :purity, :has_fcall)

# As far as that has it. What the image has was inferred in another order, and may be another even without the steps: then
# nothing can be told from comparing.
function is_as_in_image(cutoff, code, inferred)
    type_of(one) = Base.Compiler.widenconst(one)
    return type_of(inferred.result.result) == code.rettype && type_of(inferred.result.exc_result) == code.exctype &&
        are_same_edges(cutoff, code.edges, inferred.edges) &&
        (inferred.is_constant || inferred.source.debuginfo.codelocs == code.debuginfo.codelocs)
end

are_same_edges(cutoff, one, other) =
    length(one) == length(other) && all(((a, b),) -> is_same_edge(cutoff, a, b), zip(one, other))

# Also where the second is what took the place of the first.
function is_same_edge(cutoff, @nospecialize(one), @nospecialize(other))
    one isa Core.CodeInstance && (one = instance_of(one))
    other isa Core.CodeInstance && (other = instance_of(other))
    one === other && return true
    one isa Core.MethodInstance && other isa Core.MethodInstance &&
        return one.specTypes == other.specTypes && is_same_edge(cutoff, one.def, other.def)
    one isa Method && other isa Method && return one.sig == other.sig && !is_live(cutoff, one) && is_alike(one, other)
    return one isa Type && other isa Type && one == other
end

# Whether calls of two methods are compiled alike.
is_alike(one::Method, other::Method) =
    (one.nargs, one.isva, one.nospecialize, one.called) == (other.nargs, other.isva, other.nospecialize, other.called)

# Whether parts of two results are the same, up to what is called. That is noted where it is another CodeInstance now.
function is_same_part(cutoff, called, @nospecialize(one), @nospecialize(other))
    one === other && return true
    typeof(one) === typeof(other) || return false
    same(a, b) = is_same_part(cutoff, called, a, b)
    if one isa Expr
        one.head === other.head && length(one.args) == length(other.args) || return false
        is_call = one.head === :invoke
        is_call && !is_same_callee(cutoff, called, one.args[1], other.args[1]) && return false
        return all(number -> same(one.args[number], other.args[number]), (is_call ? 2 : 1):length(one.args))
    elseif one isa Array || one isa Memory
        length(one) == length(other) || return false
        return all(eachindex(one)) do number
            isassigned(one, number) == isassigned(other, number) &&
                (!isassigned(one, number) || same(one[number], other[number]))
        end
    elseif one isa Core.DebugInfo
        is_of_same = one.def === other.def || is_same_edge(cutoff, one.def, other.def)
        return is_of_same && one.codelocs == other.codelocs && same(Any[one.edges...], Any[other.edges...]) &&
            same(one.linetable, other.linetable)
    elseif one isa Type
        return one == other
    elseif one isa String
        return one == other
    elseif one isa Core.SimpleVector
        return same(Any[one...], Any[other...])
    elseif parentmodule(typeof(one)) in (Core, Base.Compiler, Base.Compiler.EscapeAnalysis) && !ismutable(one)
        return all(1:nfields(one)) do number
            isdefined(one, number) == isdefined(other, number) &&
                (!isdefined(one, number) || same(getfield(one, number), getfield(other, number)))
        end
    end
    return false
end

# Native code that stays jumps to what took the place of what it calls, which has to be called in the same way.
function is_same_callee(cutoff, called, @nospecialize(one), @nospecialize(other))
    one === other && return true
    one isa Core.CodeInstance && other isa Core.CodeInstance && is_of_base(one) && is_same_edge(cutoff, one, other) ||
        return false
    is_constant = isdefined(one, :rettype_const)
    one.rettype == other.rettype && is_constant === isdefined(other, :rettype_const) || return false
    is_constant && !is_same_part(cutoff, called, one.rettype_const, other.rettype_const) && return false
    push!(called, one)
    return true
end

# Whether an edge leads to what is no more in the present world, or to code that is another.
function is_past(cutoff, @nospecialize(edge), stays)
    edge isa Core.CodeInstance && return !stays(edge)
    edge isa Core.MethodInstance && (edge = edge.def)
    return edge isa Method && !is_live(cutoff, edge)
end

# Results, in the present world, of what is other or new.
function present_results(cutoff)
    interpreter = Base.Compiler.NativeInterpreter(cutoff.now)
    fresh, instances = Core.CodeInstance[], Any[code.def for (code, what) in cutoff.found if what === OTHER]
    foreach(method -> append!(instances, Base.specializations(method)), cutoff.added)
    for instance in instances
        code = Base.Compiler.typeinf_ext(interpreter, instance, Base.Compiler.SOURCE_MODE_NOT_REQUIRED)
        code isa Core.CodeInstance && push!(fresh, code)
    end
    return fresh
end

# What may be run now, as it is declared to be, must not call what stays.
function run_what_stays(cutoff, fresh)
    others = Base.IdSet{Any}(fresh)
    matters(code) = is_present(code, cutoff.now) && (haskey(cutoff.effects, code) || code in others)
    for code in all_reached(code -> filter(matters, called_codes(code)), filter(may_be_run, fresh))
        haskey(cutoff.effects, code) && return "$(instance_of(code).def.name) may be run by inference"
    end
    return nothing
end

# The CodeInstances of what one calls, of whatever world.
called_codes(code) = Any[one for instance in called_instances(code) for one in codes_of(instance)]

function called_instances(code)
    ones = Any[edge isa Core.CodeInstance ? instance_of(edge) : edge for edge in code.edges]
    return filter(one -> one isa Core.MethodInstance, ones)
end

# What calls itself only since the steps was inferred from results that do not know it: it needs not end, though they say so.
function recursion(cutoff, fresh)
    successors = IdDict{Any,Core.CodeInstance}(instance_of(code).specTypes => code for code in fresh)
    for code in fresh
        ends(code) && calls_itself(cutoff, code, cutoff.now, successors) || continue
        any(one -> calls_itself(cutoff, one, cutoff.before, IdDict()), predecessors(cutoff, instance_of(code))) && continue
        return "$(instance_of(code).def.name) calls itself now"
    end
    return nothing
end

function predecessors(cutoff, instance)
    method = method_of(instance.def.sig, cutoff.before)
    method === nothing && return Core.CodeInstance[]
    same = filter(one -> one.specTypes == instance.specTypes, collect(Any, Base.specializations(method)))
    return Core.CodeInstance[code for one in same for code in codes_of(one) if is_present(code, cutoff.before)]
end

ends(code) = Base.Compiler.decode_effects(code.ipo_purity_bits).terminates

function calls_itself(cutoff, begins, world, of_types)
    is_begin(instance) = is_same_edge(cutoff, instance, instance_of(begins))
    reached = all_reached(Any[begins]) do code
        successors = Any[of_types[one.specTypes] for one in called_instances(code) if haskey(of_types, one.specTypes)]
        append!(successors, filter(one -> is_present(one, world) && ends(one), called_codes(code)))
    end
    return any(code -> any(is_begin, called_instances(code)), reached)
end

is_present(code, world) = code.min_world <= world <= code.max_world && isdefined(code, :edges)

# The argument types of what has native code and comes out otherwise when it is inferred once more.
function unstable()
    now, found = Base.get_world_counter(), Any[]
    cutoff = Cutoff(now, now)
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            code.owner === nothing && code.def === instance && has_native_code(code) && isdefined(code, :edges) || continue
            inferred = inferred_in(now, instance)
            inferred !== nothing && is_as_in_image(cutoff, code, inferred) || push!(found, full_text(instance.specTypes))
        end
    end
    return found
end
