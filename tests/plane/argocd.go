package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
	"sigs.k8s.io/yaml"
)

// argoCD runs the scripts of a ConfigMap argocd-cm in the interpreter that Argo
// CD uses, with the libraries that Argo CD opens.
type argoCD struct {
	Data map[string]string `json:"data"`
}

func readArgoCD(path string) (*argoCD, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cm := &argoCD{}
	return cm, yaml.Unmarshal(data, cm)
}

func (cm *argoCD) script(what string, object *unstructured.Unstructured) (string, error) {
	key := fmt.Sprintf("resource.customizations.%s.%s_%s", what, object.GroupVersionKind().Group, object.GetKind())
	text, there := cm.Data[key]
	if !there {
		return "", fmt.Errorf("no key %s", key)
	}
	return text, nil
}

// healthCodes are those that Argo CD knows.
var healthCodes = []string{"Healthy", "Suspended", "Progressing", "Missing", "Degraded", "Unknown"}

func (cm *argoCD) health(object *unstructured.Unstructured) (any, error) {
	script, err := cm.script("health", object)
	if err != nil {
		return nil, err
	}
	var told verdict
	if err := runLua(script, object, &told); err != nil {
		return nil, err
	}
	if !slices.Contains(healthCodes, told.Status) {
		return nil, fmt.Errorf("the script says %q, which is no health", told.Status)
	}
	return told, nil
}

// customActions is the value of a key resource.customizations.actions.
type customActions struct {
	Discovery   string       `json:"discovery.lua"`
	Definitions []definition `json:"definitions"`
}

type definition struct {
	Name   string `json:"name"`
	Action string `json:"action.lua"`
}

func (a *customActions) named(name string) (definition, error) {
	for _, one := range a.Definitions {
		if one.Name == name {
			return one, nil
		}
	}
	return definition{}, fmt.Errorf("no action %s", name)
}

func (cm *argoCD) actions(object *unstructured.Unstructured) (*customActions, error) {
	text, err := cm.script("actions", object)
	if err != nil {
		return nil, err
	}
	actions := &customActions{}
	return actions, yaml.UnmarshalStrict([]byte(text), actions)
}

// discover tells for each action whether it can be used now.
func (cm *argoCD) discover(object *unstructured.Unstructured) (any, error) {
	actions, err := cm.actions(object)
	if err != nil {
		return nil, err
	}
	var found map[string]struct {
		Disabled bool `json:"disabled"`
	}
	if err := runLua(actions.Discovery, object, &found); err != nil {
		return nil, err
	}
	enabled := map[string]bool{}
	for name, action := range found {
		if _, err := actions.named(name); err != nil {
			return nil, err
		}
		enabled[name] = !action.Disabled
	}
	return enabled, nil
}

// act returns the merge patch that Argo CD sends for an action.
func (cm *argoCD) act(object *unstructured.Unstructured, name string) (any, error) {
	actions, err := cm.actions(object)
	if err != nil {
		return nil, err
	}
	definition, err := actions.named(name)
	if err != nil {
		return nil, err
	}
	var changed map[string]any
	if err := runLua(definition.Action, object, &changed); err != nil {
		return nil, err
	}
	return mergePatch(object.Object, mend(changed, object.Object))
}

func mergePatch(before, after any) (any, error) {
	from, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	to, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.CreateMergePatch(from, to)
	return json.RawMessage(patch), err
}

// mend returns what a script changed with the empty objects of the original: an
// empty table of Lua comes back as a list, also where it was an object.
func mend(changed, original any) any {
	switch was := original.(type) {
	case map[string]any:
		if is, list := changed.([]any); list && len(is) == 0 {
			return was
		}
		is, _ := changed.(map[string]any)
		for key := range is {
			is[key] = mend(is[key], was[key])
		}
	case []any:
		is, _ := changed.([]any)
		for at := range min(len(is), len(was)) {
			is[at] = mend(is[at], was[at])
		}
	}
	return changed
}

// luaTime is how long Argo CD lets a script run.
const luaTime = time.Second

func runLua(script string, object *unstructured.Unstructured, into any) error {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return err
		}
	}
	clock := luaClock()
	state.PreloadModule(lua.OsLibName, func(l *lua.LState) int {
		l.Push(l.SetFuncs(l.NewTable(), clock))
		return 1
	})
	ctx, cancel := context.WithTimeout(context.Background(), luaTime)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		return err
	}
	data, err := luajson.Encode(state.Get(-1))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// luaClock is all of the library `os` that Argo CD lends: by require, never as
// a global.
func luaClock() map[string]lua.LGFunction {
	whole := lua.NewState()
	defer whole.Close()
	library := whole.GetGlobal(lua.OsLibName).(*lua.LTable)
	clock := map[string]lua.LGFunction{}
	for _, name := range []string{"date", "time"} {
		clock[name] = library.RawGetString(name).(*lua.LFunction).GFunction
	}
	return clock
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case string:
		return lua.LString(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case []any:
		list := state.NewTable()
		for _, item := range value {
			list.Append(toLua(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
