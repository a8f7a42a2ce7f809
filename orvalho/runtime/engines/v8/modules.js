// The modules of a script: what each sees of the others, and when each runs. Which variable an
// imported name stands for was settled before (link.py); here are only getters for them.
(kit, settings) => {
  'use strict';
  const { apply, defineProperty, Promise } = kit, { modules, order, bare, default: result } = settings.linked;
  const create = ((shown) => {
    const object = { __proto__: null };
    for (let i = 0; i < shown.length; i++) {
      const [name, number, inner] = shown[i];
      defineProperty(object, name, { __proto__: null, enumerable: true, get: () => read(number, inner) });
    }
    return object;
  });
  const read = (number, inner) => (inner === null ? namespace(number) : modules[number].getters[inner]());
  const namespace = ((number) => {
    const module = modules[number];
    if (module.namespace === undefined) {
      const object = module.namespace = create(module.exports);
      defineProperty(object, Symbol.toStringTag, { __proto__: null, value: 'Module' });
      kit.preventExtensions(object);
    }
    return module.namespace;
  });

  // Each function goes as far as showing its variables, and waits there until its turn comes.
  const open = ((module, evaluate, given) => {
    const meta = { __proto__: null, url: module.url };
    const gate = new Promise((resolve) => { module.go = resolve; });
    const load = async (specifier) => {
      for (let i = 0; i < module.loads.length; i++) {
        const [known, number, before] = module.loads[i];
        if (known !== specifier) continue;
        await runAll(before);
        return namespace(number);
      }
      throw new kit.TypeError('import() takes one text, as it stands');
    };
    const show = (getters) => { module.getters = getters; };
    const own = [create(module.imports), show, gate, load, meta];
    for (let i = 0; i < given.length; i++) own[own.length] = given[i];
    module.done = apply(module.body, undefined, own);
    // One that is never waited for has nobody who catches what it throws.
    apply(kit.then, module.done, [undefined, () => {}]);
  });
  const runAll = (async (numbers) => {
    let value;
    for (let i = 0; i < numbers.length; i++) {
      const module = modules[numbers[i]];
      module.go();
      value = await module.done;
    }
    return value;
  });

  const link = ((evaluate) => {
    for (let i = 0; i < modules.length; i++) {
      try { modules[i].body = evaluate(modules[i].text); } catch (error) { settings.failed = i; throw error; }
    }
    return async (...given) => {
      for (let i = 0; i < modules.length; i++) open(modules[i], evaluate, bare && i === 0 ? given : []);
      const value = await runAll(order);
      return bare ? value : read(result[0], result[1]);
    };
  });
  return { __proto__: null, link };
}
