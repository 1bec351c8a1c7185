// The live panel: speeds and reads with their last minute, and the map of experts, from the events of GET /live.

import { call } from "./api.js";
import { find, h } from "./dom.js";
import { bytesText, Gauge, numberText } from "./gauge.js";
import { ExpertMap } from "./map.js";
import { events } from "./sse.js";

const LONGEST_PAUSE = 15_000; // milliseconds between two tries

export class LivePanel {
  #controller = null;

  constructor(key) {
    this.key = key;
    this.panel = find("live");
    this.state = find("live-state");
    this.rate = find("live-rate");
    this.map = new ExpertMap();
    this.gauges = {
      tokens: new Gauge("Answers", "tokens per second", numberText),
      prompts: new Gauge("Prompts", "tokens per second", numberText),
      hits: new Gauge("Hit rate", "of picks were in memory", (share) => `${(share * 100).toFixed(share > 0.9995 ? 0 : 1)} %`, 1),
      bytes: new Gauge("Read", "from the SSD per token", bytesText),
    };
    find("gauges").append(...Object.values(this.gauges).map((gauge) => gauge.node));
    this.load = h("p", { class: "muted small load" });
    find("gauges").append(this.load);
    document.addEventListener("visibilitychange", () => this.#follow());
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  show(isOpen) {
    this.panel.hidden = !isOpen;
    find("toggle-live").setAttribute("aria-expanded", String(isOpen));
    this.#follow();
  }

  /** Begins again, with another key or after the server has answered. */
  restart() {
    this.#controller?.abort();
    this.#controller = null;
    this.#follow();
  }

  /** Listens while somebody can see it. */
  #follow() {
    const isWanted = this.isOpen && !document.hidden;
    if (isWanted && !this.#controller) {
      this.#controller = new AbortController();
      this.#listen(this.#controller.signal);
    } else if (!isWanted && this.#controller) {
      this.#controller.abort();
      this.#controller = null;
      this.rate.textContent = "";
    }
  }

  async #listen(signal) {
    for (let pause = 1000; !signal.aborted; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
      try {
        const response = await call("/live", { key: this.key(), signal });
        this.state.textContent = "";
        for await (const data of events(response.body)) {
          this.#show(JSON.parse(data));
          pause = 1000;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) {
          this.state.textContent = "needs the API key";
          return;
        }
      }
      if (signal.aborted) return;
      this.state.textContent = "no connection, trying again";
      this.rate.textContent = "";
      await new Promise((resolve) => { setTimeout(resolve, pause); });
    }
  }

  #show(sample) {
    this.gauges.tokens.add(sample.tokens_per_second);
    this.gauges.prompts.add(sample.prompt_tokens_per_second);
    this.gauges.hits.add(sample.hit_rate);
    this.gauges.bytes.add(sample.bytes_per_token);
    this.rate.textContent = sample.tokens_per_second > 0 ? `${numberText(sample.tokens_per_second)} tok/s` : "";
    const load = [`${sample.running ?? 0} running`, `${sample.queued ?? 0} queued`];
    const share = sample.slots?.resident_share;
    if (typeof share === "number") load.push(`${(share * 100).toFixed(0)} % of experts resident`);
    this.load.textContent = load.join(" \u00b7 ");
    if (sample.experts) this.map.show(sample.experts);
  }
}
