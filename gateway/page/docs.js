/*
 * Shows the operations of /-json and sends requests. It is made of DOM calls only, so nothing that the API says can
 * become markup.
 */
"use strict";

(async () => {
  const element = (name, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  };

  const api = await (await fetch("/-json")).json();
  const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);

  /** A body to begin with: what is required, and what has an example or a default. */
  const sample = (schema, depth = 0) => {
    const found = resolve(schema) ?? {};
    if (found.default !== undefined) return found.default;
    if (found.examples?.length) return found.examples[0];
    const option = found.anyOf?.[0] ?? found.allOf?.[0];
    if (option) return sample(option, depth);
    if (found.const !== undefined || found.enum) return found.const ?? found.enum[0];
    if (found.type === "array") return depth > 4 ? [] : [sample(found.items, depth + 1)];
    if (found.type === "object") {
      const wanted = Object.entries(found.properties ?? {}).filter(([name]) => found.required?.includes(name) || name === "session");
      return Object.fromEntries(wanted.map(([name, one]) => [name, sample(one, depth + 1)]));
    }
    return { string: "", integer: 0, number: 0, boolean: false }[found.type] ?? null;
  };

  const form = (method, path, operation) => {
    const fields = operation.parameters.map((parameter) => {
      const value = parameter.required ? (parameter.schema.default ?? parameter.schema.examples?.[0] ?? "") : "";
      const input = element("input", { value });
      const label = `${parameter.name}${parameter.required ? " *" : ""} (${parameter.in}) `;
      return { parameter, input, row: element("label", { className: "parameter" }, label, input) };
    });
    const schema = operation.requestBody?.content["application/json"].schema;
    const body = schema && element("textarea", { rows: 8, value: JSON.stringify(sample(schema), null, 2) });
    const output = element("pre", { className: "hidden" });
    const button = element("button", { type: "button" }, "Send");
    button.addEventListener("click", async () => {
      let address = path;
      const query = new URLSearchParams();
      const headers = { "X-Api-Key": document.getElementById("key").value };
      for (const { parameter, input } of fields) {
        if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
        else if (input.value && parameter.in === "query") query.append(parameter.name, input.value);
        else if (input.value) headers[parameter.name] = input.value;
      }
      if (body) headers["Content-Type"] = "application/json";
      const response = await fetch(`${address}${query.size ? `?${query}` : ""}`, { method, headers, body: body?.value });
      const text = await response.text();
      let shown = text;
      try {
        shown = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // not JSON: shown as it is
      }
      output.textContent = `${response.status} ${response.statusText}\n${shown}`;
      output.classList.remove("hidden");
    });
    return element("div", {}, ...fields.map(({ row }) => row), ...(body ? [body] : []), button, output);
  };

  const list = document.getElementById("operations");
  list.replaceChildren();
  for (const { name, description } of api.tags) {
    const entries = Object.entries(api.paths)
      .flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => [method.toUpperCase(), path, operation]))
      .filter(([, , operation]) => operation.tags.includes(name));
    const section = element("section", {}, element("h2", {}, name), element("p", {}, description));
    for (const [method, path, operation] of entries) {
      const absent = operation.description?.startsWith("Not implemented");
      const summary = element("summary", {}, element("code", {}, `${method} ${path}`), ` ${operation.summary}`);
      const details = element("details", {}, summary, element("p", {}, operation.description ?? ""));
      details.classList.toggle("absent", Boolean(absent));
      details.classList.toggle("deprecated", Boolean(operation.deprecated));
      details.dataset.words = `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase();
      details.addEventListener("toggle", () => details.append(form(method, path, operation)), { once: true });
      section.append(details);
    }
    if (entries.length) list.append(section);
  }

  document.getElementById("find").addEventListener("input", ({ target }) => {
    for (const details of list.querySelectorAll("details")) {
      details.classList.toggle("hidden", !details.dataset.words.includes(target.value.toLowerCase()));
    }
  });
})();
