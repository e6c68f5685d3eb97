import { describe, expect, test } from "@jest/globals";
import {
  planAuthority,
  planLeaf,
  type AuthorityAction,
  type AuthorityState,
  type LeafAction,
  type LeafState,
} from "./certificate-plan.ts";

const dayMs = 86_400_000;
const timing = { announceMs: dayMs, leafMs: 90 * dayMs } as const;
const life = (fromDay: number, days: number) => ({
  notBeforeMs: fromDay * dayMs,
  notAfterMs: (fromDay + days) * dayMs,
});

const calm: AuthorityState = {
  current: life(0, 3_000),
  next: undefined,
  isNextPublished: false,
  signingSinceMs: 0,
  hasPrevious: false,
  isRotationAsked: false,
};

describe("an authority", () => {
  test.each<{ when: string; day: number; state: Partial<AuthorityState>; action: AuthorityAction }>([
    { when: "there is none", day: 0, state: { current: undefined }, action: "create" },
    { when: "it is young", day: 1_999, state: {}, action: "none" },
    { when: "two thirds of its life are over", day: 2_000, state: {}, action: "announceNext" },
    { when: "somebody asks for another one", day: 5, state: { isRotationAsked: true }, action: "announceNext" },
    {
      when: "the next one is announced and not everybody can have heard",
      day: 2_000.5,
      state: { next: life(2_000, 3_000), isNextPublished: true },
      action: "none",
    },
    {
      when: "the next one is old enough, but nobody was told of it",
      day: 2_005,
      state: { next: life(2_000, 3_000) },
      action: "none",
    },
    {
      when: "everybody has heard of the next one",
      day: 2_001,
      state: { next: life(2_000, 3_000), isNextPublished: true },
      action: "promoteNext",
    },
    {
      when: "what the previous one signed may still be in use",
      day: 2_090,
      state: { current: life(2_000, 3_000), signingSinceMs: 2_001 * dayMs, hasPrevious: true },
      action: "none",
    },
    {
      when: "what the previous one signed has ended",
      day: 2_093,
      state: { current: life(2_000, 3_000), signingSinceMs: 2_001 * dayMs, hasPrevious: true },
      action: "forgetPrevious",
    },
    {
      when: "the previous one's leaves have ended, but another rotation is under way",
      day: 2_093,
      state: { next: life(2_092.5, 3_000), isNextPublished: true, hasPrevious: true },
      action: "none",
    },
  ])("$when => $action", ({ day, state, action }) => {
    expect(planAuthority({ ...calm, ...state }, day * dayMs, timing)).toBe(action);
  });
});

describe("a certificate", () => {
  const good: LeafState = {
    leaf: life(0, 90),
    isOfCurrentAuthority: true,
    isAsWanted: true,
    hasCurrentBundle: true,
  };
  test.each<{ when: string; day: number; early?: number; state: Partial<LeafState>; action: LeafAction }>([
    { when: "all is well", day: 59, state: {}, action: "none" },
    { when: "there is none", day: 0, state: { leaf: undefined }, action: "issue" },
    { when: "two thirds of its life are over", day: 60, state: {}, action: "issue" },
    { when: "it is to be renewed early", day: 52, early: 0.9, state: {}, action: "issue" },
    { when: "it is not yet time, not even early", day: 50, early: 0.9, state: {}, action: "none" },
    { when: "it has ended", day: 100, state: {}, action: "issue" },
    { when: "another authority signs now", day: 1, state: { isOfCurrentAuthority: false }, action: "issue" },
    { when: "it is for other names", day: 1, state: { isAsWanted: false }, action: "issue" },
    { when: "the bundle is another one", day: 1, state: { hasCurrentBundle: false }, action: "replaceBundle" },
  ])("$when => $action", ({ day, early, state, action }) => {
    expect(planLeaf({ ...good, ...state }, day * dayMs, early)).toBe(action);
  });
});
